"""What a CNI call does to this node: kernel state, a record and routes. Only this package knows the order of steps."""
