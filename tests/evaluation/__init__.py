"""How well research finds: questions made by code from documents that others wrote, and what came of them."""
