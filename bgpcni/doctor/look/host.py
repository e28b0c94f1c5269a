"""Looks at the host: kernel, sysctls, limits, disks, clock, and the services that manage links."""

from __future__ import annotations

import configparser
import ctypes
import fnmatch
import os
import re
import resource
import shutil
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

from bgpcni.config.agent import AgentConfig
from bgpcni.doctor.facts import Clock, Disk, LinkFile, Managed, NetworkFile, Open, User
from bgpcni.ipam.config import DEFAULT_DATA_DIR
from bgpcni.kernel import links, namespace, routes, sysctl, uapi, vrf
from bgpcni.kernel.netlink import MAKE, Message, Netlink, NetlinkError, attribute

_SYSCTLS = (
    "net/ipv4/ip_forward", "net/ipv4/conf/all/rp_filter", "net/ipv6/conf/all/forwarding",
    "net/ipv6/conf/all/disable_ipv6", "net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables",
    "net/netfilter/nf_conntrack_count", "net/netfilter/nf_conntrack_max",
    "net/ipv4/neigh/default/gc_thresh3", "net/ipv6/neigh/default/gc_thresh3",
)  # fmt: skip
_OF_DEVICE = ("net/ipv4/conf/{}/rp_filter", "net/ipv4/conf/{}/forwarding", "net/ipv6/conf/{}/accept_ra",
              "net/ipv6/conf/{}/force_forwarding")  # fmt: skip
_PROGRAMS = ("nft", "iptables")
_STA_UNSYNC = 0x40
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+) *([<>=!~0-9.,]*)")
"""A requirement without a marker, as our pyproject.toml has them; those of extras have one."""
_LIMIT = re.compile(r"(>=|<(?!=))([0-9.]+)")


def user() -> User:
    mapping = Path("/proc/self/uid_map").read_text(encoding="ascii").split()
    return User(os.geteuid(), mapping[:2] != ["0", "0"])


def kernel() -> str:
    return os.uname().release


def sysctls(devices: Iterable[str]) -> dict[str, str]:
    """Those that the causes ask for. What is not there does not exist in this kernel or namespace."""
    found = {}
    for name in (*_SYSCTLS, *(form.format(device) for device in devices for form in _OF_DEVICE)):
        try:
            found[name] = sysctl.read(name)
        except OSError:
            continue
    return found


def programs() -> frozenset[str]:
    return frozenset(name for name in _PROGRAMS if shutil.which(name))


def features() -> dict[str, bool]:
    """What this kernel has, asked in a network namespace of its own, which ends with the thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_features).result()


def _features() -> dict[str, bool]:
    namespace.unshare()
    with Netlink.open() as netlink:
        return {
            "bridge": _can_make(netlink, "bridge"),
            "vxlan": _can_make(netlink, "vxlan", attribute(uapi.IFLA_VXLAN_ID, 1)),
            "vlan_filtering": _can_make(netlink, "bridge", attribute(uapi.IFLA_BR_VLAN_FILTERING, b"\1")),
            "vrf": vrf.is_supported(netlink),
            "mpls": routes.forwards_mpls(netlink),
        }


def _can_make(netlink: Netlink, kind: str, *details: bytes) -> bool:
    (answer,) = netlink.send(Message(uapi.RTM_NEWLINK, MAKE, links.header() + links.of_kind(kind, *details)))
    return not isinstance(answer, NetlinkError)


def clock() -> Clock:
    now = time.time()
    return Clock(now, now - time.clock_gettime(time.CLOCK_BOOTTIME), _synchronised())


def _synchronised() -> bool | None:
    """What adjtimex(2) says, asked without setting anything. Its struct begins with `modes`, and fifth is `status`."""
    libc = ctypes.CDLL(None, use_errno=True)
    words = (ctypes.c_long * 64)()
    if libc.adjtimex(words) < 0:
        return None
    return not words[5] & 0xFFFFFFFF & _STA_UNSYNC


def disks(agent: AgentConfig, files: Iterable[NetworkFile]) -> tuple[Disk, ...]:
    """The file systems of our folders, each once; of a folder that is missing, that of the one above."""
    leases = [str(config.ipam.get("dataDir") or DEFAULT_DATA_DIR) for file in files for config in file.configs
              if config.ipam]  # fmt: skip
    found: dict[int, Disk] = {}
    for name in dict.fromkeys((agent.data_dir, agent.run_dir, *(leases or [DEFAULT_DATA_DIR]))):
        path = Path(name)
        while not path.exists():
            path = path.parent
        system = os.statvfs(path)
        found.setdefault(
            path.stat().st_dev,
            Disk(name, system.f_bavail * system.f_frsize, system.f_blocks * system.f_frsize,
                 system.f_favail, system.f_files),
        )  # fmt: skip
    return tuple(found.values())


def opened(run_dir: Path) -> tuple[Open, ...]:
    """The limits on open files, of the host and of the agent, and on inotify instances of root."""
    used, _, most = (int(word) for word in Path("/proc/sys/fs/file-nr").read_text(encoding="ascii").split())
    found = [Open("files of the host (fs.file-max)", used, most)]
    if (pid := agent_pid(run_dir)) is not None:
        soft, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        found.append(Open("nofile of the agent", len(os.listdir(f"/proc/{pid}/fd")), soft if soft > 0 else 0))
    most = int(sysctl.read("fs/inotify/max_user_instances"))
    found.append(Open("inotify instances of root (fs.inotify.max_user_instances)", _inotify_instances(), most))
    return tuple(found)


def agent_pid(run_dir: Path) -> int | None:
    """The process that holds the agent's lock, as /proc/locks names it; None if there is none, or it is not seen."""
    try:
        inode = (run_dir / "agent.lock").stat()
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    wanted = f"{os.major(inode.st_dev):02x}:{os.minor(inode.st_dev):02x}:{inode.st_ino}"
    for line in lines:
        words = line.split()
        if wanted in words and "WRITE" in words and "->" not in words:
            pid = int(words[words.index("WRITE") + 1])
            return pid if pid > 0 else None
    return None


def _inotify_instances() -> int:
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == 0:
                count += sum(os.readlink(fd) == "anon_inode:inotify" for fd in (process / "fd").iterdir())
        except OSError:
            continue  # it ended, or we may not look
    return count


# ---------------------------------------------------------------- services


def link_files(root: Path) -> tuple[LinkFile, ...]:
    """The .link file that systemd-udevd applies to a new bridge, and to a new veth."""
    files = _files(root, "network", "*.link")
    return tuple(found for kind in ("bridge", "veth") if (found := _applied(files, kind)) is not None)


def _applied(files: Iterable[Path], kind: str) -> LinkFile | None:
    for path in files:
        sections = _sections(path)
        match = sections.get("Match", {})
        if all(_matches(key, value, kind) for key, value in match.items()) and match:
            return LinkFile(str(path), kind, sections.get("Link", {}).get("macaddresspolicy", ""))
    return None


def _matches(key: str, value: str, kind: str) -> bool:
    """Whether a new link of this kind may match a line of [Match]: by its driver, kind or name."""
    if key in ("driver", "kind", "type"):
        return any(fnmatch.fnmatchcase(kind, word) for word in value.split())
    if key in ("originalname", "name"):
        names = {"bridge": ("cni0", "br0"), "veth": ("veth0",)}[kind]
        return any(fnmatch.fnmatchcase(name, word) for word in value.split() for name in names)
    return False


def managers(root: Path) -> tuple[Managed, ...]:
    """The services that are at work here and care for links, with what they claim of ours."""
    names = set(_process_names())
    found = [Managed("systemd-udevd", ())] if names & {"systemd-udevd", "(udev-worker)", "udevd"} else []
    if "NetworkManager" in names:
        found.append(Managed("NetworkManager", tuple(_claims_of_network_manager(root))))
    if "systemd-networkd" in names or "systemd-network" in names:
        found.append(Managed("systemd-networkd", tuple(_claims_of_networkd(root))))
    return tuple(found)


def _process_names() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            yield path.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            continue


def _claims_of_network_manager(root: Path) -> Iterator[str]:
    """It leaves veths alone by a udev rule of its own; a bridge that has an address it takes over."""
    patterns = []
    main = [root / "etc/NetworkManager/NetworkManager.conf"]
    for path in (*main, *_files(root, "NetworkManager/conf.d", "*.conf", package="NetworkManager")):
        patterns += re.split(r"[;,]", _sections(path).get("keyfile", {}).get("unmanaged-devices", ""))
    rules = _files(root, "udev/rules.d", "*nm-unmanaged*")
    for kind in ("veth", "bridge"):
        by_rule = any(f'"{kind}"' in path.read_text(errors="replace") for path in rules)
        by_file = any(pattern.strip() in (f"driver:{kind}", f"type:{kind}", "*") for pattern in patterns)
        if not (by_rule or by_file):
            yield f"{kind}s are not among its unmanaged-devices"


def _claims_of_networkd(root: Path) -> Iterator[str]:
    for path in _files(root, "network", "*.network"):
        sections = _sections(path)
        match, link = sections.get("Match", {}), sections.get("Link", {})
        claimed = [kind for kind in ("veth", "bridge") if match and all(_matches(k, v, kind) for k, v in match.items())]
        if claimed and link.get("unmanaged", "no").lower() not in ("yes", "true", "1", "on"):
            yield f"{path} is about every {' and '.join(claimed)}"
    main = [root / "etc/systemd/networkd.conf"]
    files = (*main, *_files(root, "networkd.conf.d", "*.conf"))
    foreign = [_sections(path).get("Network", {}).get("manageforeignroutes", "") for path in files]
    if not any(value.lower() in ("no", "false", "0", "off") for value in foreign):
        yield "it removes routes of others from its links when it configures them (ManageForeignRoutes)"


def _files(root: Path, folder: str, form: str, package: str = "systemd") -> list[Path]:
    """Configuration files by name, of each name the one that counts: /etc before /run before /usr/lib."""
    found: dict[str, Path] = {}
    for base in ("etc", "run", "usr/local/lib", "usr/lib"):
        place = root / base / folder if folder.startswith(("udev", package)) else root / base / package / folder
        for path in sorted(place.glob(form)):
            found.setdefault(path.name, path)
    return [path for _, path in sorted(found.items()) if path.is_file() and path.resolve() != Path("/dev/null")]


def _sections(path: Path) -> dict[str, dict[str, str]]:
    """An INI file; keys in lower case. A file that cannot be read or parsed has none."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",), allow_no_value=True)
    try:
        parser.read_string(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, configparser.Error):
        return {}
    return {name: {key: value or "" for key, value in parser.items(name)} for name in parser.sections()}


# ---------------------------------------------------------------- Python


def unmet() -> tuple[str, ...]:
    """The requirements of our distribution that the environment does not meet; not those of its extras."""
    found = []
    for text in metadata.requires("bgpcni") or ():
        match = _REQUIREMENT.fullmatch(text)
        if match is None:
            continue
        try:
            have = metadata.version(match[1])
        except metadata.PackageNotFoundError:
            found.append(f"{match[1]} is not installed")
            continue
        if not all(_meets(have, limit) for limit in match[2].split(",") if limit):
            found.append(f"{match[1]} is {have}, and {match[2]} is required")
    return tuple(found)


def _meets(have: str, limit: str) -> bool:
    """Whether a version is within a limit such as `>=2.9` or `<3`. Other forms of a limit are taken as met."""
    match = _LIMIT.match(limit)
    if match is None:
        return True
    one, other = (tuple(int(number) for number in re.findall(r"\d+", text)[:3]) for text in (have, match[2]))
    return one >= other if match[1] == ">=" else one < other
