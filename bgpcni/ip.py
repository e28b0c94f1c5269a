"""The parsers of `ipaddress` with a cache, because an ADD parses the same few addresses thirty times."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

_LAST = 1024

ip_address = lru_cache(_LAST)(ipaddress.ip_address)
ip_interface = lru_cache(_LAST)(ipaddress.ip_interface)
ip_network = lru_cache(_LAST)(ipaddress.ip_network)
