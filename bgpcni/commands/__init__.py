"""What an operator can ask or order: the table of commands, their answers as JSON documents, and the text of these."""

from typing import Any

Document = dict[str, Any]
"""The answer to a command, as it is printed with `--json`."""
