"""`make demo`: a first look at the real thing, and what it proves."""
