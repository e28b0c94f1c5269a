"""Label selectors mean what they mean in Kubernetes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from bgpcni.cluster.selectors import AnySelector, Selector, label_key, label_value

SELECTOR: TypeAdapter[Selector] = TypeAdapter(AnySelector)
KEYS = st.sampled_from(["rack", "role", "example.dev/zone"])
VALUES = st.sampled_from(["", "r1", "r2", "r3"])
LABELS = st.dictionaries(KEYS, VALUES)
REQUIREMENTS = st.one_of(
    st.builds(
        lambda key, operator, values: {"key": key, "operator": operator, "values": values},
        KEYS, st.sampled_from(["In", "NotIn"]), st.lists(VALUES, min_size=1, max_size=3),
    ),
    st.builds(lambda key, operator: {"key": key, "operator": operator},
              KEYS, st.sampled_from(["Exists", "DoesNotExist"])),
)  # fmt: skip


def kubernetes(document: dict[str, Any], labels: dict[str, str]) -> bool:
    """The rules of the documentation of Kubernetes, one by one."""
    for key, value in document["matchLabels"].items():
        if key not in labels or labels[key] != value:
            return False
    for one in document["matchExpressions"]:
        there, value = one["key"] in labels, labels.get(one["key"])
        right = {
            "In": lambda: there and value in one["values"],  # noqa: B023
            "NotIn": lambda: not there or value not in one["values"],  # noqa: B023
            "Exists": lambda: there,  # noqa: B023
            "DoesNotExist": lambda: not there,  # noqa: B023
        }[one["operator"]]
        if not right():
            return False
    return True


@given(LABELS, st.lists(REQUIREMENTS, max_size=3), LABELS)
def test_a_selector_selects_as_in_kubernetes(wanted: Any, expressions: Any, labels: dict[str, str]) -> None:
    """Whatever labels and expressions are put together; without any, it selects everything."""
    document = {"matchLabels": wanted, "matchExpressions": expressions}
    assert SELECTOR.validate_python(document).matches(labels) == kubernetes(document, labels)


@given(LABELS, LABELS)
def test_a_plain_mapping_means_match_labels(wanted: dict[str, str], labels: dict[str, str]) -> None:
    """`nodeSelector: {rack: r1}`."""
    plain, written = SELECTOR.validate_python(wanted), SELECTOR.validate_python({"matchLabels": wanted})
    assert plain.matches(labels) == written.matches(labels)


@pytest.mark.parametrize(
    "wrong",
    [
        {"matchExpressions": [{"key": "a", "operator": "In"}]},
        {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]},
        {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]},
        {"matchLabels": {"a": "b"}, "other": {}},
        {"rack": 1},
        {"-rack": "r1"},
        {"rack": "r 1"},
    ],
)
def test_what_kubernetes_refuses_is_refused(wrong: Any) -> None:
    """Nothing is guessed: a selector that is misread selects the wrong nodes."""
    with pytest.raises(ValidationError):
        SELECTOR.validate_python(wrong)


def test_keys_and_values_are_kubernetes_own() -> None:
    """63 characters, a DNS name in front of a key, an empty value, no empty key."""
    assert label_key("example.dev/" + "a" * 63)
    assert label_value("") == ""
    for wrong in ("", "a" * 64, "/a", "Example.dev/a", "a/b/c"):
        with pytest.raises(ValueError, match="is not a label's key"):
            label_key(wrong)
    with pytest.raises(ValueError, match="is not a label's value"):
        label_value("a" * 64)
