"""The generated module is what its .proto says, and only what every supported runtime reads."""

from __future__ import annotations

import importlib.resources
import re
from pathlib import Path

import pytest

protoc = pytest.importorskip("grpc_tools.protoc", reason="grpcio-tools is not installed")
FOLDER = Path(__file__).parents[1] / "exporters"


def test_the_generated_module_is_that_of_the_proto(tmp_path: Path) -> None:
    """Who changes gobgp.proto generates anew."""
    from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

    from bgpcni_gobgp import gobgp_pb2

    target = tmp_path / "set"
    known = importlib.resources.files("grpc_tools") / "_proto"
    argv = ["protoc", f"-I{FOLDER}", f"-I{known}", f"--descriptor_set_out={target}", "bgpcni_gobgp/gobgp.proto"]
    assert protoc.main(argv) == 0
    (wanted,) = FileDescriptorSet.FromString(target.read_bytes()).file
    there = FileDescriptorProto()
    gobgp_pb2.DESCRIPTOR.CopyToProto(there)  # type: ignore[no-untyped-call]
    assert _bare(there) == _bare(wanted)


def _bare(file: object) -> str:
    """Without the JSON names, which not every compiler writes."""
    return re.sub(r"\s*json_name: .*", "", str(file))


def test_it_runs_with_the_oldest_runtime() -> None:
    """Code of a newer generator refuses an older protobuf, and says so in a call at its start."""
    text = (FOLDER / "bgpcni_gobgp/gobgp_pb2.py").read_text()
    assert "Protobuf Python Version: 4.25" in text
    assert "ValidateProtobufRuntimeVersion" not in text
