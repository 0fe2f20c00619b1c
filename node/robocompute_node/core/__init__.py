"""Rules without I/O: which offer fits, what a slot may be let for, what a task becomes."""
