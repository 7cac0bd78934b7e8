"""One command a file: its arguments, its files, a call, and what is printed."""
