"""The CNI specification, and nothing of ours: environment, versions, results. Pure: no I/O."""
