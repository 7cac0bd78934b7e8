"""Files and hub data sets of others to battles."""
