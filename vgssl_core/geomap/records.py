"""``records.parquet`` of a segment, read safely: what people want to know of each image; never needed to localize."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vgssl_core.errors import DataError, MapError
from vgssl_core.geomap.manifest import SEGMENTS, SegmentEntry
from vgssl_core.geomap.positions import MapPositions
from vgssl_core.open_files import cannot_read
from vgssl_core.verified import require_inside

if TYPE_CHECKING:
    # Imported only where records are touched: the robot's hot path never does.
    import pyarrow
    import pyarrow.parquet

RECORDS = "records.parquet"
#: Column → type, in their order.
COLUMNS = {
    "latitude_deg": "double",
    "longitude_deg": "double",
    "altitude_m": "double",
    "heading_deg": "double",
    "stamp_ns": "int64",
    "source": "string",
}
#: One source may be as long as a path; on average they are shorter.
_MAX_SOURCE_BYTES, _MAX_MEAN_SOURCE_BYTES = 4096, 1024
#: Pages come with dictionaries, levels and statistics.
_MAX_NUMBERS_BYTES_PER_ROW, _SPARE_BYTES = 128, 1 << 20
_MAX_FOOTER_BYTES, _MAX_FOOTER_ITEMS = 16_000_000, 1_000_000
_BATCH_ROWS = 16_384
_REMEDY = "Build the map again, or copy it again whole."


def check_sources(sources: Sequence[str]) -> None:
    """Refuse texts that no reader of records would accept.

    Raises:
        DataError: One is too long, is no Unicode text, or all together are too long.
    """
    total = 0
    for source in sources:
        try:
            size = len(source.encode())
        except UnicodeEncodeError as problem:
            raise DataError(f"The source {source!r} is no Unicode text: rename the file.") from problem
        if size > _MAX_SOURCE_BYTES:
            raise DataError(f"The source {source[:80]}… is longer than {_MAX_SOURCE_BYTES} bytes: use a shorter path.")
        total += size
    if total > _source_limit(len(sources)):
        raise DataError(f"The {len(sources)} sources have {total} bytes together: use shorter paths.")


def read_sources(folder: Path, segment: SegmentEntry) -> list[str]:
    """Where each image of a segment comes from, in the segment's order.

    Raises:
        MapError: See `read_records`.
    """
    return read_records(folder, segment, ["source"])["source"].to_pylist()


def read_positions(folder: Path, segment: SegmentEntry, poses: NDArray[np.void]) -> MapPositions:
    """All records of a segment, in the segment's order.

    Args:
        folder: The map's folder.
        segment: The manifest's entry.
        poses: (N,) of the segment; their x and y become ``planar_m``.

    Raises:
        MapError: See `read_records`.
    """
    table = read_records(folder, segment)
    numbers = {name: table[name].to_numpy() for name in COLUMNS if name != "source"}
    planar = np.stack([poses["x"], poses["y"]], axis=1)
    return MapPositions(**numbers, source=tuple(table["source"].to_pylist()), planar_m=planar)


def read_records(folder: Path, segment: SegmentEntry, columns: Sequence[str] = tuple(COLUMNS)) -> pyarrow.Table:
    """Columns of a segment's records, in the segment's order, without unknown values.

    The footer is compared with the manifest before a page is read, and texts are read as dictionary, so that neither a
    few compressed bytes nor one long text that stands in every row can become many.

    Args:
        folder: The map's folder.
        segment: The manifest's entry.
        columns: Some of ``COLUMNS``.

    Raises:
        MapError: The records are damaged, are not those of the segment, or would take more memory than records do.
    """
    import pyarrow
    import pyarrow.parquet

    path = folder / SEGMENTS / segment.name / RECORDS
    require_inside(folder, path, MapError, _REMEDY)
    names = list(columns)
    try:
        with pyarrow.parquet.ParquetFile(
            path,
            read_dictionary=["source"],
            thrift_string_size_limit=_MAX_FOOTER_BYTES,
            thrift_container_size_limit=_MAX_FOOTER_ITEMS,
        ) as file:
            _check_footer(file, segment.count)
            batches = list(_plain_batches(file.iter_batches(_BATCH_ROWS, columns=names), segment.count))
        return pyarrow.Table.from_batches(batches).select(names)
    except OSError as problem:
        raise MapError(cannot_read(path, problem, _REMEDY)) from problem
    except (KeyError, ValueError, MemoryError, OverflowError, pyarrow.ArrowException) as problem:
        raise MapError(f"{path} is damaged: {str(problem)[:300]}. {_REMEDY}") from problem


def _source_limit(count: int) -> int:
    return count * _MAX_MEAN_SOURCE_BYTES + _SPARE_BYTES


def _check_footer(file: pyarrow.parquet.ParquetFile, count: int) -> None:
    """Refuse by what the file says about itself; raises a `ValueError`."""
    metadata = file.metadata
    if metadata.num_rows != count:
        raise ValueError(f"it says that it holds {metadata.num_rows} records, and the segment has {count} images")
    fields = [(field.name, str(getattr(field.type, "value_type", field.type))) for field in file.schema_arrow]
    if fields != list(COLUMNS.items()):
        raise ValueError(f"its columns are {str(fields)[:200]} instead of {list(COLUMNS.items())}")
    groups = metadata.num_row_groups
    if not 1 <= groups <= count:
        raise ValueError(f"it has {groups} row groups for {count} records")
    sizes = [
        metadata.row_group(group).column(column).total_uncompressed_size
        for group in range(groups)
        for column in range(len(COLUMNS))
    ]
    limit = _source_limit(count) + count * _MAX_NUMBERS_BYTES_PER_ROW + groups * len(COLUMNS) * 1024
    if min(sizes) < 0 or sum(sizes) > limit:
        raise ValueError(f"it would unpack to {sum(sizes)} bytes, more than the {limit} that {count} records can need")


def _plain_batches(batches: Iterator[pyarrow.RecordBatch], count: int) -> Iterator[pyarrow.RecordBatch]:
    """The batches with their texts as texts; raises a `ValueError` as soon as they are more than ``count`` can be."""
    import pyarrow
    import pyarrow.compute as compute

    rows = text_bytes = 0
    for batch in batches:
        batch.validate(full=True)
        rows += batch.num_rows
        columns = []
        for column in batch.columns:
            if column.null_count:
                raise ValueError(f"{column.null_count} values are unknown")
            if isinstance(column, pyarrow.DictionaryArray):
                lengths = compute.binary_length(column.dictionary).take(column.indices)
                text_bytes += compute.sum(lengths).as_py() or 0
                if (compute.max(lengths).as_py() or 0) > _MAX_SOURCE_BYTES or text_bytes > _source_limit(count):
                    raise ValueError(f"sources are longer than {_MAX_SOURCE_BYTES} bytes, or too long together")
                column = column.dictionary_decode()
            columns.append(column)
        yield pyarrow.RecordBatch.from_arrays(columns, names=batch.schema.names)
    if rows != count:
        raise ValueError(f"it holds {rows} records for {count} images")
