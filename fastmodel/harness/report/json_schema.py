"""The JSON schema of `report.json`, generated from the records.

The committed copy is `docs/report.schema.json`; a test keeps it the same as `schema_text()`:
`python -c "from fastmodel.harness.report import schema_text; print(schema_text(), end='')"`.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter

from fastmodel.harness.records import Report

ADAPTER: TypeAdapter[Report] = TypeAdapter(Report)


def schema() -> dict[str, Any]:
    """What a written `report.json` holds, as JSON Schema 2020-12; every field is required."""
    generated = ADAPTER.json_schema(mode="serialization")
    for record in (generated, *generated["$defs"].values()):
        # A field with a default may be left out when a record is built, never when it is written.
        record["required"] = list(record["properties"])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **generated}


def schema_text() -> str:
    """`schema()` as it is committed."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
