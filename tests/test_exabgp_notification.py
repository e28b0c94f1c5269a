"""Why a session ended, in words."""

from __future__ import annotations

from bgpcni_exabgp.notification import explain


def test_why_a_session_ended_is_said_in_words():
    """NOTIFICATION codes are spelled out, and an UPDATE error of the peer's is told from others."""
    fall = explain("notification received (3,9)")
    assert fall.words == "NOTIFICATION 3/9 received: UPDATE Message Error, Optional Attribute Error"
    assert fall.our_update
    assert not explain("notification sent (3,9)").our_update
    assert explain("notification received (2,2)").words.endswith("OPEN Message Error, Bad Peer AS")
    said = explain("notification sent (2,2)", 64512, 64999, 64700).words
    assert said.endswith("Bad Peer AS: the peer says that it has AS 64700, agent.toml says 64999")
    assert explain("notification sent (2,2)", 64512, 64999).words.endswith("Bad Peer AS")
    said = explain("notification received (2,2)", 64512, 64999).words
    assert said.endswith("Bad Peer AS: the peer expects another AS than ours, 64512")
    assert explain("notification received (9,9)").words.endswith("code 9")
    assert explain("closing connection").words == "closing connection"
    assert explain("").words == "the session ended"
