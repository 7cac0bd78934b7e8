"""What tests share beyond fixtures: judges and files made, servers started, second computations."""
