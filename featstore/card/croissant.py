"""A store as Croissant 1.1, the format of descriptions of data sets: https://docs.mlcommons.org/croissant/

store.json, the tables and the scale are FileObjects, each with its sha256. The shards are a FileSet, for
which the format has no checksum: their hashes are in shards.parquet.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyarrow has no types.

import json
from typing import Any

from ..identity import IMPORTED
from ..layout import STORE_JSON, TABLES, ZARR_GROUP, table_file
from ..metadata import StoreMetadata
from ..quantise import SCALE_FILE
from ..tables import INDEX_SCHEMA
from .facts import Facts

IDENTIFIER = '"identifier": "sha256:'  # by which such a file is recognised
CONFORMS_TO = "http://mlcommons.org/croissant/1.1"
# The context that the specification gives (section "JSON-LD context"), with PROV's terms.
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
# mlcroissant does not read files of the registered type, application/vnd.apache.parquet.
PARQUET, BINARY, JSON = "application/x-parquet", "application/octet-stream", "application/json"
MEANINGS = {
    "image_id": "the id in the data set",
    "status": "what became of the id; only ok has a record",
    "reason": "why the id has no record, or what is unusual about its image",
    "shape": "grid shape, rows x cols",
    "row": "in the arrays of that grid shape",
    "width": "pixels of the source image, 0 if unknown",
    "height": "pixels of the source image, 0 if unknown",
    "source_sha256": "sha256 of the source file",
    "source": "path of the source file, relative to the image root",
    "checksum": "the last 4 bytes of each array of the record",
    "record_sha256": "the first 16 bytes of the sha256 of each array of the record",
}


def croissant(facts: Facts, sha256: str) -> bytes:
    """Return croissant.json of a store whose store.json has this sha256."""
    metadata = facts.summary.metadata
    about = metadata.about
    web = facts.url if facts.url and facts.url.startswith("http") else None
    content: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": facts.title,
        "description": about.description or f"{facts.title}: {facts.sentence}.",
        "version": f"1.{metadata.generation}.0",
        "datePublished": metadata.created,
        "identifier": f"sha256:{metadata.digest}",
        "license": about.licence,
        "citeAs": about.citation or facts.summary.cite,
        "url": about.homepage or web,
        "keywords": ["clipfeat", "zarr", "image features"],
        "prov:wasDerivedFrom": _origins(metadata),
        "distribution": _files(metadata, sha256, f"{web}/" if web else ""),
        "recordSet": [_index(metadata)],
    }
    given = {key: value for key, value in content.items() if value}
    return json.dumps(given, indent=2).encode() + b"\n"


def _origins(metadata: StoreMetadata) -> list[dict[str, str]]:
    """Return what the features were made from: weights, other stores, files of other programs."""
    backbone = metadata.identity.backbone
    found: list[dict[str, str]] = []
    if weights := backbone.get("weights_sha256"):
        found.append(_origin("weights of the backbone", str(backbone.get("model")), weights))
    if backbone.get("model") == IMPORTED:
        source: Any = backbone.get("source_sha256") or backbone.get("listing_sha256") or []
        for sha256 in source if isinstance(source, list) else [source]:
            found.append(_origin("features of another program", "imported", sha256))
    origin = metadata.identity.derived_from
    parents = [*metadata.parents, *([origin.digest] if origin else [])]
    return found + [_origin("feature store", "its digest", parent) for parent in parents]


def _origin(kind: str, name: str, sha256: object) -> dict[str, str]:
    return {
        "@id": f"urn:sha256:{sha256}",
        "@type": "prov:Entity",
        "name": name,
        "description": kind,
    }


def _files(metadata: StoreMetadata, sha256: str, base: str) -> list[dict[str, Any]]:
    """Return the files of the features: those with a hash of their own, and the shards as a set."""
    files = [(STORE_JSON, JSON, sha256, "what the store is; it has the sha256 of the tables")]
    about = {
        "index": "a row for each image id",
        "shards": "the packing list: path, size and sha256 of each shard",
        "lookup": "from an id to the place of its record",
    }
    for table, suffix in TABLES.items():
        kind = PARQUET if suffix == "parquet" else BINARY
        name = table_file(table, metadata.generation)
        files.append((name, kind, metadata.tables[table], about[table]))
    if metadata.identity.scale_sha256 is not None:
        files.append((SCALE_FILE, BINARY, metadata.identity.scale_sha256, "the scale of uint8"))
    objects = [
        {
            "@type": "cr:FileObject",
            "@id": name,
            "name": name,
            "description": text,
            "contentUrl": f"{base}{name}",
            "encodingFormat": kind,
            "sha256": digest,
        }
        for name, kind, digest, text in files
    ]
    arrays = ", ".join(metadata.identity.arrays)
    shards = {
        "@type": "cr:FileSet",
        "@id": "shards",
        "name": "shards",
        "description": f"the shards of the Zarr v3 arrays ({arrays}) of each grid shape",
        "encodingFormat": BINARY,
        "includes": f"{ZARR_GROUP}/*/*/c.*",
    }
    return [*objects, shards]


def _index(metadata: StoreMetadata) -> dict[str, Any]:
    """Return the columns of the index."""
    file = table_file("index", metadata.generation)
    return {
        "@type": "cr:RecordSet",
        "@id": "index",
        "name": "index",
        "description": "the image ids, with or without a record",
        "key": {"@id": "index/image_id"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"index/{field.name}",
                "name": field.name,
                "description": MEANINGS[field.name],
                "dataType": "sc:Integer" if str(field.type).startswith("int") else "sc:Text",
                "source": {"fileObject": {"@id": file}, "extract": {"column": field.name}},
            }
            for field in INDEX_SCHEMA
        ],
    }
