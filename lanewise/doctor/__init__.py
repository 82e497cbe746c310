"""`lanewise doctor`: looks at everything that a fleet depends on, and says what is wrong and how to put it right."""
