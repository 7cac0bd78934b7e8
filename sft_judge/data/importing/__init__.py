"""Import of other projects' files and Hub data sets as battles."""
