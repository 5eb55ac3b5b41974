"""A hive of real machines, from the operator's side: `fedhive deploy`."""
