"""Commands, one module each: arguments, input and output files, a call into the library, and printed results."""
