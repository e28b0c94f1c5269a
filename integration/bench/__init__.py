"""`make bench`: ours and the stock plugins side by side, in one run, on the same work; and the way to FRR's table.

`runner` works inside a node's namespace and times whole processes; `sections` says what is measured; `report` makes
the table, `bench.json` and the plot. Ratios are what to quote: absolute times are the machine's of that minute.
"""
