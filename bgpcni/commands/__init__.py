"""What an operator can ask or order: the table of commands, their answers as JSON documents, and the text of these."""
