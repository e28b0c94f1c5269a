"""The errors of this project, each tied once to its CNI code (CNI specification, section 5, "Error").

Code that fails raises one of these with a message an operator can act on; the edge (`handler`) turns it into
the JSON that the specification asks for. Nothing else in the project knows about codes.
"""

from __future__ import annotations


class CniError(Exception):
    """Base of all errors that a runtime sees. `code` is the CNI error code, `details` the longer story."""

    code = 999

    def __init__(self, msg: str, details: str = "") -> None:
        super().__init__(msg)
        self.msg = msg
        self.details = details


class IncompatibleVersion(CniError):
    """The configuration's or the result's cniVersion is not one we speak."""

    code = 1


class UnsupportedField(CniError):
    """A field of the configuration asks for what this plugin or this kernel cannot do."""

    code = 2


class InvalidEnvironment(CniError):
    """A CNI_* variable is missing or malformed."""

    code = 4


class IoFailure(CniError):
    """Reading or writing failed: disk full, folder not writable."""

    code = 5


class DecodingFailure(CniError):
    """stdin or prevResult is not what it should be."""

    code = 6


class InvalidConfiguration(CniError):
    """The network configuration is wrong; the message starts with the key: `bgp.vni: …`."""

    code = 7


class InvalidNamespace(CniError):
    """CNI_NETNS names no network namespace, or the node's own."""

    code = 8


class TryAgain(CniError):
    """A passing condition: the runtime should call again later."""

    code = 11


class Unavailable(CniError):
    """STATUS: the plugin cannot serve an ADD."""

    code = 50


class Degraded(CniError):
    """STATUS: the plugin cannot serve an ADD, and attachments that exist may be affected."""

    code = 51


class AlreadyAttached(CniError):
    """ADD for an attachment that exists: nothing was touched."""

    code = 100


class KernelRefused(CniError):
    """The kernel refused a step that should work; the message names the step and the errno."""

    code = 101


class Unfit(KernelRefused):
    """What is there cannot be what is wanted. `about`: what it is, in the kernel's terms: "bridge", "MTU", …"""

    def __init__(self, about: str, msg: str) -> None:
        super().__init__(msg)
        self.about = about


class Unsupported(KernelRefused):
    """This kernel, or this node without some program, cannot do what is wanted."""


class CheckFailed(CniError):
    """CHECK found something missing or different from what ADD made."""

    code = 102


class DuplicateAddress(CniError):
    """Duplicate address detection found another host with an address of the attachment (RFC 4862)."""

    code = 103


class Delegated(CniError):
    """A delegated plugin failed; its own code and message are passed on."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        super().__init__(msg, details)
        self.code = code
