"""The messages of Envoy's external processing, as far as a picker reads and writes them.

From envoy/service/ext_proc/v3/external_processor.proto and what it imports. On the wire a message
has numbers and no names, so fields that are left out cost nothing: what a gateway sends in them is
skipped. Generated code for all of Envoy's API exists (xds-protos), but brings modules of its own in
the place of OpenTelemetry's, with which traces cannot be sent.
"""

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, struct_pb2

_PACKAGE: Final = "penstock.ext_proc"
_TYPES: Final = {"string": 9, "bytes": 12, "bool": 8, "int32": 5}
"""Of google.protobuf.FieldDescriptorProto.Type; an enum is an int32 on the wire."""
_MESSAGE: Final = 11
_REPEATED: Final = 3
_STRUCT: Final = struct_pb2.Struct.DESCRIPTOR.full_name

_FIELDS: Final[dict[str, tuple[tuple[int, str, str], ...]]] = {
    "ProcessingRequest": (
        (2, "request_headers", "HttpHeaders"),
        (3, "response_headers", "HttpHeaders"),
        (4, "request_body", "HttpBody"),
        (5, "response_body", "HttpBody"),
        (6, "request_trailers", "HttpTrailers"),
        (7, "response_trailers", "HttpTrailers"),
        (8, "metadata_context", "Metadata"),
        (11, "protocol_config", "ProtocolConfiguration"),
    ),
    "HttpHeaders": ((1, "headers", "HeaderMap"), (3, "end_of_stream", "bool")),
    "HeaderMap": ((1, "headers", "HeaderValue*"),),
    "HeaderValue": ((1, "key", "string"), (2, "value", "string"), (3, "raw_value", "bytes")),
    "HttpBody": ((1, "body", "bytes"), (2, "end_of_stream", "bool")),
    "HttpTrailers": (),
    "Metadata": ((1, "filter_metadata", "FilterMetadata*"),),
    "FilterMetadata": ((1, "key", "string"), (2, "value", _STRUCT)),
    "ProtocolConfiguration": (
        (1, "request_body_mode", "int32"),
        (2, "response_body_mode", "int32"),
    ),
    "ProcessingResponse": (
        (1, "request_headers", "HeadersResponse"),
        (2, "response_headers", "HeadersResponse"),
        (3, "request_body", "BodyResponse"),
        (4, "response_body", "BodyResponse"),
        (5, "request_trailers", "TrailersResponse"),
        (6, "response_trailers", "TrailersResponse"),
        (7, "immediate_response", "ImmediateResponse"),
        (8, "dynamic_metadata", _STRUCT),
    ),
    "HeadersResponse": ((1, "response", "CommonResponse"),),
    "BodyResponse": ((1, "response", "CommonResponse"),),
    "TrailersResponse": (),
    "CommonResponse": (
        (2, "header_mutation", "HeaderMutation"),
        (3, "body_mutation", "BodyMutation"),
        (5, "clear_route_cache", "bool"),
    ),
    "HeaderMutation": ((1, "set_headers", "HeaderValueOption*"), (2, "remove_headers", "string*")),
    "HeaderValueOption": ((1, "header", "HeaderValue"), (3, "append_action", "int32")),
    "BodyMutation": ((1, "body", "bytes"), (3, "streamed_response", "StreamedBodyResponse")),
    "StreamedBodyResponse": ((1, "body", "bytes"), (2, "end_of_stream", "bool")),
    "ImmediateResponse": (
        (1, "status", "HttpStatus"),
        (2, "headers", "HeaderMutation"),
        (3, "body", "bytes"),
    ),
    "HttpStatus": ((1, "code", "int32"),),
}
"""By message: number, name and type of each field; `*`: repeated."""

OVERWRITE: Final = 2
"""HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD."""


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="penstock/ext_proc.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[struct_pb2.DESCRIPTOR.name],
    )
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for number, field, kind in fields:
            _add(message, number, field, kind)
    return file


def _add(message: descriptor_pb2.DescriptorProto, number: int, name: str, kind: str) -> None:
    found = message.field.add(name=name, number=number)
    kind, repeated = kind.removesuffix("*"), kind.endswith("*")
    found.label = _REPEATED if repeated else 1
    if kind in _TYPES:
        found.type = _TYPES[kind]
    else:
        found.type = _MESSAGE
        found.type_name = f".{kind if kind == _STRUCT else f'{_PACKAGE}.{kind}'}"


def _classes() -> dict[str, Any]:
    pool = descriptor_pool.Default()
    pool.Add(_file())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in ("ProcessingRequest", "ProcessingResponse")
    }


_CLASSES: Final = _classes()
ProcessingRequest: Final[Any] = _CLASSES["ProcessingRequest"]
ProcessingResponse: Final[Any] = _CLASSES["ProcessingResponse"]
PARTS: Final = tuple(name for _, name, _ in _FIELDS["ProcessingRequest"][:6])
"""Of requests and answers; a message has one of them."""
