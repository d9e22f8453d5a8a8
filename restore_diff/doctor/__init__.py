"""What is wrong with a machine, or with a data set: checks that find it, none of which changes anything."""
