"""What an operator does to a node that is at work: drain, reload, and ending the agent."""

from __future__ import annotations

import functools
import os
import signal

from integration.lab import Frr, Lab, Neighbor, Node, link, until
from integration.lab.node import BGPCNI, to_toml
from integration.seen import (
    Burst,
    add,
    announced,
    delete,
    dual,
    nothing_left,
    nothing_stays,
    pinged,
    ready,
    session,
    settled,
    speaker,
    withdrawn,
)


def alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def test_drain(frr: Frr, node: Node, lab: Lab) -> None:
    """`bgpcni drain` withdraws every route and ends ExaBGP; containers keep running; a new ADD is told to try again;
    a DEL leaves nothing, at once; an agent that is started again announces what is still there."""
    node.agent()
    frr.wait_established(node.address)
    conf, first, second = dual(node), lab.container("a"), lab.container("b")
    gone, kept = add(node, "c1", first, conf), add(node, "c2", second, conf)
    announced(frr, node, gone, kept)
    pid = speaker(node)
    drained = node.operator("drain")
    assert (drained.code, drained.document["drained"], drained.document["late"]) == (0, True, [])
    withdrawn(frr, gone, kept)
    until(lambda: not alive(pid), "the end of ExaBGP")
    for ip in gone.document["ips"]:
        assert first.ping(ip["gateway"])
    status = node.operator("status")
    assert status.code == 1
    assert "drained" in {problem["code"] for problem in status.document["problems"]}
    assert node.operator("routes").code == 1
    with lab.container("c") as third:
        assert node.cni("ADD", "c3", third, conf).error == 11
        (explained,) = node.operator("explain", "c3").document["attachments"]
        assert "this node is drained" in explained["steps"][-1]["detail"]
    assert node.cni("STATUS", conf=conf | {"cniVersion": "1.1.0"}).error == 51
    delete(node, "c1", first, conf)
    assert len(node.records()) == 1
    assert node.lease_files() == set(kept.ips)
    assert node.operator("drain").code == 0
    refused = node.operator("reload")
    assert refused.code == 1
    assert "drained" in refused.document["error"]
    node.restart_agent()
    announced(frr, node, kept)
    pinged(frr, kept)
    delete(node, "c2", second, conf)
    nothing_left(node, first, second)


def test_sigterm_leaves_the_routes(lab: Lab) -> None:
    """SIGTERM, also a second one, ends only the agent: ExaBGP continues, and the routes stay."""
    frr, node = ready(lab)
    conf, space = dual(node), lab.container()
    answer = add(node, "c1", space, conf)
    announced(frr, node, answer)
    pid, before = speaker(node), session(frr, node)
    assert node.kill_agent(signal.SIGTERM) == 0
    pinged(frr, answer)
    assert alive(pid)
    assert session(frr, node) == before
    node.start_agent()
    assert node.kill_agent(signal.SIGINT) == 0
    node.start_agent()
    settled(node)
    assert session(frr, node) == before
    delete(node, "c1", space, conf)
    nothing_left(node, space)
    withdrawn(frr, answer)


def test_a_reload_of_a_bad_file_changes_nothing(lab: Lab) -> None:
    """A misspelt key, no TOML, another data_dir: `reload` names what is wrong and exits with 1, SIGHUP logs it; routes,
    session and ADDs go on as before."""
    frr, node = ready(lab)
    conf, first, second = dual(node), lab.container("a"), lab.container("b")
    answer = add(node, "c1", first, conf)
    announced(frr, node, answer)
    before = session(frr, node)
    good = node.config.read_text()
    for text, words in (
        (good + "orphan_grce = 1\n", "orphan_grce"),
        (good + "[", "agent.toml"),
        (to_toml(node.agent_config(bgp={"router_id": "0.0.0.0"})), "router_id"),
        (to_toml(node.agent_config(data_dir=str(node.folder / "elsewhere"))), "data_dir"),
    ):
        node.config.write_text(text)
        answered = node.operator("reload")
        assert answered.code == 1
        assert words in answered.document["error"]
    assert node.process is not None
    node.process.send_signal(signal.SIGHUP)
    until(lambda: "read again and refused" in node.log.read_text(), "the refusal in the log")
    assert session(frr, node) == before
    other = add(node, "c2", second, conf)
    announced(frr, node, answer, other)
    node.config.write_text(good)
    assert node.operator("reload").code == 0
    assert session(frr, node) == before
    for name, space in (("c1", first), ("c2", second)):
        delete(node, name, space, conf)
    nothing_left(node, first, second)


def test_a_neighbour_is_added_while_containers_come_and_go(lab: Lab) -> None:
    """A second neighbour in agent.toml, then SIGHUP (and `reload` for taking it out again): the first session is not
    touched, the second gets every route, of ADDs and DELs that ran meanwhile as well."""
    one, two = lab.frr(), lab.frr(asn=64513, router_id="198.18.255.2")
    node = lab.node(one)
    here, there = ("198.18.90.2/24", "2001:db8:18:90::2/64"), ("198.18.90.1/24", "2001:db8:18:90::1/64")
    link(node.namespace, two.namespace, "uplink2", "node", here, there)
    two.namespace.ip("route", "add", f"{node.address}/32", "via", "198.18.90.2")
    two.namespace.ip("-6", "route", "add", f"{node.address6}/128", "via", "2001:db8:18:90::2")
    two.add_neighbor(Neighbor(node.address, node.asn, extra=("ebgp-multihop 4",)))
    node.agent()
    one.wait_established(node.address)
    conf = dual(node)
    spaces = {f"c{n}": lab.container(f"c{n}") for n in range(12)}
    stay = {name: add(node, name, spaces[name], conf) for name in ("c0", "c1")}
    leave = {name: add(node, name, spaces[name], conf) for name in ("c2", "c3", "c4", "c5")}
    announced(one, node, *stay.values(), *leave.values())
    before = session(one, node)
    config = node.agent_config()
    first = config["bgp"]["neighbors"]
    families = ["ipv4-unicast", "ipv6-unicast"]
    config["bgp"]["neighbors"] = [*first, {"address": "198.18.90.1", "asn": 64513, "families": families}]
    node.config.write_text(to_toml(config))
    calls = [functools.partial(node.cni, "DEL", name, spaces[name], conf) for name in leave]
    calls += [functools.partial(node.cni, "ADD", f"c{n}", spaces[f"c{n}"], conf | {"bgp": {}}) for n in range(6, 12)]
    burst = Burst(calls)
    burst.wait(lambda: len(node.records("up")) != 6, "the first change")
    assert node.process is not None
    node.process.send_signal(signal.SIGHUP)
    answers = burst.answers()
    assert [answer.document for answer in answers if not answer.ok] == []
    two.wait_established(node.address)
    new = dict(zip((f"c{n}" for n in range(6, 12)), answers[4:], strict=True))
    announced(one, node, *stay.values(), *new.values())
    announced(two, node, *stay.values(), *new.values())
    withdrawn(one, *leave.values())
    withdrawn(two, *leave.values())
    until(lambda: len(node.records()) == 8, "only the records of what is there")
    assert session(one, node) == before
    peers = node.operator("peers").document["peers"]
    assert {peer["address"] for peer in peers} == {node.peer, "198.18.90.1"}

    node.configure()
    assert node.operator("reload").code == 0
    until(lambda: len(node.operator("peers").document["peers"]) == 1, "one peer")
    settled(node)
    until(lambda: not two.established(node.address), "the end of the second session")
    assert session(one, node) == before
    for name in (*stay, *new):
        delete(node, name, spaces[name], conf)
    nothing_stays(node, *spaces.values())
    withdrawn(one, *stay.values(), *new.values())


def test_the_last_of_many_hangups_counts(lab: Lab) -> None:
    """agent.toml changes and SIGHUP comes faster than it is applied: what is in force in the end is the last file."""
    node = lab.node()
    conf = node.network(exporters=[])
    allowed, denied = (
        {"bgp": {"neighbors": []}, "policy": {"prefixes": [prefix]}} for prefix in ("10.0.0.0/8", "192.0.2.0/24")
    )
    process = node.agent(**denied)
    for last in (allowed, denied):
        for number in range(6):
            node.configure(**(allowed if number % 2 else denied))
            process.send_signal(signal.SIGHUP)
        node.configure(**last)
        process.send_signal(signal.SIGHUP)
        until(lambda: node.cni("STATUS", conf=conf | {"cniVersion": "1.1.0"}).ok, "an agent that answers")
        with lab.container("a") as space:
            until(lambda: node.cni("ADD", "c1", space, conf).ok is (last is allowed), "the last file")  # noqa: B023
            assert node.cni("DEL", "c1", space, conf).ok
    assert "Traceback" not in node.log.read_text()


def test_bgp_is_taken_away_and_comes_back(lab: Lab) -> None:
    """Without `[bgp]` what is announced could not be: refused, in words. With the exporter taken away too the routes
    are withdrawn, ExaBGP ends and the containers go on; both back, so are the routes."""
    frr = lab.frr()
    node = lab.node(frr)
    node.agent()
    frr.wait_established(node.address)
    conf, space = dual(node, exporters=None), lab.container("a")
    answer = add(node, "c1", space, conf)
    announced(frr, node, answer)
    pid, before = speaker(node), session(frr, node)
    node.configure(bgp=None)
    refused = node.operator("reload")
    assert refused.code == 1
    assert "no [bgp]" in refused.document["error"] or "next_hop" in refused.document["error"], refused
    assert session(frr, node) == before
    node.configure(bgp=None, default_exporters=[])
    assert node.operator("reload").code == 0
    withdrawn(frr, answer)
    until(lambda: not alive(pid), "the end of ExaBGP")
    until(lambda: node.operator("status").document["problems"] == [], "a healthy node without BGP")
    for ip in answer.document["ips"]:
        assert space.ping(ip["gateway"])
    node.configure()
    assert node.operator("reload").code == 0
    announced(frr, node, answer)
    delete(node, "c1", space, conf)
    nothing_left(node, space)


def test_who_we_are_changes(lab: Lab) -> None:
    """Another router ID, another AS, another password in the same file: each reload brings the session back with it,
    and the routes; a password file that cannot be read is refused, and the session stays."""
    frr = lab.frr()
    node = lab.node(frr)
    secret = node.folder / "conf/secret"
    secret.write_text("first\n")
    secret.chmod(0o600)
    neighbor = {"address": node.peer, "asn": frr.asn, "families": list(node.families), "password_file": str(secret)}
    frr.configure(f"router bgp {frr.asn}", f"neighbor {node.address} password first")
    node.agent(bgp={"neighbors": [neighbor]})
    frr.wait_established(node.address)
    conf, space = dual(node), lab.container("a")
    answer = add(node, "c1", space, conf)
    announced(frr, node, answer)

    def reload(**bgp: object) -> None:
        node.configure(bgp={"neighbors": [neighbor], **bgp})
        assert node.operator("reload").code == 0
        frr.wait_established(node.address)
        announced(frr, node, answer)
        settled(node)

    reload(router_id="198.18.77.7")
    until(lambda: frr.neighbor(node.address)["remoteRouterId"] == "198.18.77.7", "the new router ID")
    frr.configure(f"router bgp {frr.asn}", f"neighbor {node.address} remote-as 64999")
    reload(asn=64999)
    until(lambda: frr.neighbor(node.address)["remoteAs"] == 64999, "the new AS")
    secret.write_text("second\n")
    frr.configure(f"router bgp {frr.asn}", f"neighbor {node.address} password second")
    reload(asn=64999)
    before = session(frr, node)
    secret.chmod(0o644)
    refused = node.operator("reload")
    assert refused.code == 1
    assert f"password_file of {node.peer}" in refused.document["error"]
    assert session(frr, node) == before
    secret.chmod(0o600)
    assert node.operator("reload").code == 0
    assert session(frr, node) == before
    delete(node, "c1", space, conf)
    nothing_left(node, space)


def test_commands_without_an_agent(lab: Lab) -> None:
    """No agent on this node: the commands answer from the records, as text too; those that need the agent say so."""
    node, space = lab.node(), lab.container()
    conf = dual(node, exporters=[])
    add(node, "c1", space, conf)
    environment = node._environment() | {"PATH": os.environ["PATH"]}

    def operator(*argv: str) -> tuple[int, str]:
        done = node.namespace.run(*node._private(), BGPCNI, *argv, check=False, env=environment)
        return done.returncode, done.stdout + done.stderr

    code, said = operator("attachments")
    assert code == 0
    assert "c1" in said
    assert operator("routes", "--json") == (0, '{"schema": 1, "routes": []}\n')
    code, said = operator("explain", "c1")
    assert code == 0
    assert "no exporters" in said
    code, said = operator("status")
    assert code == 0
    assert "no agent is running" in said
    assert operator("sync")[0] == 0
    for command in ("drain", "reload"):
        code, said = operator(command)
        assert code == 1
        assert "agent.sock" in said
    assert operator("explain")[0] == 2
    delete(node, "c1", space, conf)
    nothing_left(node, space)
