"""The transaction: one CNI call becomes kernel state, a record and routes. It alone knows the order of steps."""
