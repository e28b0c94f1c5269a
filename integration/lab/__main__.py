"""`python -m integration.lab`: remove what test runs that are dead left behind."""

from integration.lab.namespace import sweep

if __name__ == "__main__":
    for name in sweep():
        print(f"removed {name}")
