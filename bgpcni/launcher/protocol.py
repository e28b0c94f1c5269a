"""The protocol between the launcher (or the operator's command) and the agent, over a unix stream socket.

    agent     -> one byte, HELLO, on accept (if it does not come within 5 s, there is no agent)
    client    -> header, environment, stdin; a descriptor of CNI_NETNS, if it could be opened,
                 is sent with the first byte (SCM_RIGHTS)
    agent     -> reply header, stdout, stderr; then it closes

Header, big endian: magic `BGC1`, kind (`C`: a CNI call, `I`: a call of another plugin for our IPAM, `O`: an operator's
command), 3 zero bytes, length of the environment block, length of stdin (u32 each): 16 octets. The environment block is
`NAME=VALUE` strings, each ended by NUL: CNI's variables for a call, empty for a command, whose stdin is one JSON
object. Reply header: exit code (u8), flags (u8, reserved), 2 zero bytes, length of stdout, length of stderr (u32 each):
12 octets.
"""

from __future__ import annotations

import struct

HELLO = b"\x06"
MAGIC = b"BGC1"
HEADER = struct.Struct("!4sc3xII")
REPLY = struct.Struct("!BB2xII")
HELLO_SECONDS = 5.0
CALL, IPAM, COMMAND = b"C", b"I", b"O"
MAX_REQUEST = 1 << 20
"""The most octets of environment and stdin together; MAX_GC is the limit for GC."""
MAX_GC = 16 << 20
MAX_REPLY = 16 << 20
"""The most octets of stdout and stderr together."""


def limit(command: str) -> int:
    """How many octets environment and stdin of a call with this CNI_COMMAND may have together."""
    return MAX_GC if command == "GC" else MAX_REQUEST
