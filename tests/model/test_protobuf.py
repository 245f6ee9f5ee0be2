from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsipipe.model.protobuf import fields, submessages, text, text_field, whole_number

onnx = pytest.importorskip("onnx", reason="needs the package onnx, for its messages")


@given(st.text(min_size=1, max_size=300), st.text(min_size=1, max_size=300))
def test_texts_are_those_of_protobuf(key: str, value: str) -> None:
    written = onnx.StringStringEntryProto(key=key, value=value).SerializeToString()
    assert written == text_field(1, key.encode()) + text_field(2, value.encode())
    assert (text(memoryview(written), 1), text(memoryview(written), 2)) == (key, value)


@given(st.lists(st.integers(0, 2**63 - 1), max_size=4), st.floats(width=32, allow_nan=False), st.binary(max_size=200))
def test_records_of_the_fields_are_the_message(dims: list[int], number: float, raw: bytes) -> None:
    tensor = onnx.TensorProto(dims=dims, data_type=7, raw_data=raw, float_data=[number], double_data=[1.0])
    message = memoryview(tensor.SerializeToString())
    assert b"".join(field.record for field in fields(message)) == message
    assert [field.value for field in fields(message) if field.number == 1] == dims
    assert whole_number(message, 2) == 7
    assert list(submessages(message, 9)) == [raw]
