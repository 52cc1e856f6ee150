"""card.html: one page that needs no other file, no network and no script.

Every text of a store is escaped: ids, reasons and licences may come from anywhere.
"""

from collections.abc import Iterable, Iterator, Sequence
from html import escape

import numpy as np

from ...base.text import counted, printable, size_text
from ..geometry import GridShape
from ..lookup import Status
from ..recipes import image_recipe
from ..report.stats import VectorStats
from .charts import (
    MOST_COLUMNS,
    cells_png,
    curve,
    data_url,
    heat_map,
    histogram,
    number_text,
    picture,
    share_bar,
)
from .facts import NOT_STATED, Facts, number_rows, sample_text
from .places import PlaceStats
from .recipe_drawing import SCENE, UNKNOWN_SIZE, drawing, panels, photo_scene
from .style import STYLE
from .survey import GridPicture, Survey

JPEG = "image/jpeg"
VIEWS = GridShape(3, 12)  # elevations from -30 degrees up, headings clockwise
MOST_BOXES = 100  # of an image's regions, the largest
MOST_PICTURE_ID = 40  # characters of an id below a picture
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
GENERATOR = '<meta name="generator" content="clipfeat store card">'
PROVENANCE = ("made", "with", "from", "loss", "parent", "digest", "cite as")


def page(facts: Facts) -> bytes:
    """Return the page of a store."""
    parts = [
        _head(facts),
        "<main>\n",
        *_sections(facts),
        "</main>\n",
        _foot(facts),
        "</html>\n",
    ]
    return "".join(parts).encode(errors="xmlcharrefreplace")


def _text(text: str) -> str:
    """Return a text as HTML; what a reader would not see is shown as an escape."""
    return escape("\n".join(map(printable, text.split("\n"))))


def _head(facts: Facts) -> str:
    metadata = facts.summary.metadata
    identity = metadata.identity
    shapes = list(facts.summary.records_by_shape)
    grid = shapes[0].replace("x", " x ") if len(shapes) == 1 else f"{len(shapes)} shapes"
    numbers = {
        "images with a record": f"{facts.summary.records:,}",
        "regions of an image" if identity.regions else "cells of a grid": grid,
        "channels of a cell": f"{identity.dim:,}",
        "on disk": size_text(facts.summary.bytes),
    }
    tiles = "".join(f"<div><dd>{_text(v)}</dd><dt>{k}</dt></div>" for k, v in numbers.items())
    description = metadata.about.description
    licences = _capital("; ".join(f"{name}: {text}" for name, text in facts.licences.items()))
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="referrer" content="no-referrer">\n{GENERATOR}\n'
        f"<title>{_text(facts.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{SCENE}\n"
        f"<header>\n<h1>{_text(facts.title)}</h1>\n"
        f'<p class="lead">{_text(_capital(facts.sentence))}.</p>\n'
        f"{_paragraphs(description) if description else ''}"
        f'<p class="faint">{_text(licences)}</p>\n'
        f'<dl class="numbers">{tiles}</dl>\n</header>\n'
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _paragraphs(text: str) -> str:
    parts = (part.strip() for part in text.split("\n\n"))
    return "".join(f"<p>{_text(part)}</p>\n" for part in parts if part)


def _sections(facts: Facts) -> Iterator[str]:
    found = facts.survey
    if found is not None and found.pictures:
        yield _section("Images as the backbone sees them", _pictures(facts, found))
    yield _section("What happens to an image", _recipe(facts))
    yield _section("Ids", _ids(facts))
    if found is not None:
        yield _section("Numbers", _numbers(found))
        if found.places:
            yield _section("Places in the grid", _places(facts, found))
    yield _section("Licences and origin", _origin(facts))
    yield _section("Use", _use(facts))


def _section(title: str, parts: Iterable[str]) -> str:
    name = title.lower().replace(" ", "-")
    inside = "".join(parts)
    return f'<section aria-labelledby="{name}">\n<h2 id="{name}">{title}</h2>\n{inside}</section>\n'


def _pictures(facts: Facts, found: Survey) -> Iterator[str]:
    assert found.basis is not None
    shares = [f"{100 * share:.0f}" for share in found.basis.explained]
    has_photos = any(_thumbnail(facts, each) for each in found.pictures)
    yield (
        f"<p>{counted(len(found.pictures), 'image')} of a random sample. Three directions in which "
        f"cells differ most are shown as red, green and blue; they have {shares[0]} %, {shares[1]} % and "
        f"{shares[2]} % of the variance of standardised channels. All images share one choice of directions and "
        f"signs (the largest entry of each is positive), so their colours can be compared."
        f"{' Padding is hatched.' if any(not each.mask.all() for each in found.pictures) else ''}</p>\n"
    )
    items = "".join(_figure(facts, each) for each in found.pictures)
    yield f'<ul class="tiles{" pairs" if has_photos else ""}">\n{items}</ul>\n'


def _thumbnail(facts: Facts, each: GridPicture) -> bytes | None:
    return facts.thumbnails.get((each.row.image_id, each.row.source_sha256))


def _figure(facts: Facts, each: GridPicture) -> str:
    image_id = printable(each.row.image_id)
    short = image_id if len(image_id) <= MOST_PICTURE_ID else f"{image_id[:MOST_PICTURE_ID]}…"
    size = f", {each.row.width} x {each.row.height} pixels" if each.row.width else ""
    photo = _thumbnail(facts, each)
    pictures = "" if photo is None else picture(photo, f"image {image_id}", "photo", JPEG)
    if each.boxes is not None:
        pictures += _regions(each, image_id)
    else:
        colours, mask = each.colours, each.mask
        if each.shape.cells == VIEWS.cells and each.shape.cols == 1:
            colours, mask = (
                array.reshape(*VIEWS, *array.shape[2:])[::-1] for array in (colours, mask)
            )
        pictures += picture(cells_png(colours, mask), f"grid of image {image_id}", "grid")
    return (
        f'<li><figure><div class="pair">{pictures}</div><figcaption>{escape(short)}<br>'
        f"{each.shape.rows} x {each.shape.cols}{size}</figcaption></figure></li>\n"
    )


def _regions(each: GridPicture, image_id: str) -> str:
    """Return the regions of an image as boxes in their colours, the largest behind the others."""
    assert each.boxes is not None
    boxes = each.boxes.astype(np.float64)
    colours = each.colours.reshape(-1, 3)
    usable = np.isfinite(boxes).all(axis=1)
    boxes, colours = boxes[usable], colours[usable]
    width, height = each.row.width, each.row.height
    if not (width and height):  # unknown
        ends = boxes[:, 2:].max(axis=0, initial=1.0).tolist()
        width, height = (max(1, round(min(end, 1e6))) for end in ends)
    boxes = boxes.clip(0, [width, height, width, height])
    sides = (boxes[:, 2:] - boxes[:, :2]).clip(min=0)
    shapes: list[str] = []
    for number in np.argsort(-sides.prod(axis=1), kind="stable")[:MOST_BOXES].tolist():
        (left, top, _, _), (wide, high) = boxes[number].tolist(), sides[number].tolist()
        colour = "rgb({},{},{})".format(*colours[number].tolist())
        shapes.append(
            f'<rect x="{left:.6g}" y="{top:.6g}" width="{wide:.6g}" height="{high:.6g}" fill="{colour}" '
            f'fill-opacity=".55" stroke="{colour}" stroke-width="{max(width, height) / 150:.3g}"/>'
        )
    return (
        f'<svg class="grid" role="img" aria-label="{escape(f"regions of image {image_id}")}" '
        f'viewBox="0 0 {width} {height}">{"".join(shapes)}</svg>'
    )


def _recipe(facts: Facts) -> Iterator[str]:
    recipe, steps = image_recipe(facts.summary.metadata.identity)
    if not steps:
        yield "<p>These features were not made by a recipe that clipfeat knows.</p>\n"
    else:
        views = " Each of the 36 views of a viewpoint is treated so." if recipe.get("views") else ""
        sizes = _example_sizes(facts.survey)
        what = "the most frequent size" if len(sizes) == 1 else "the most frequent sizes"
        if facts.survey is None or not facts.survey.sizes:
            what = "an example"
        yield (
            f"<p>{_capital(what)}, at true proportions. The dashed line is what a crop keeps, hatching is "
            f"padding, white lines divide the cells of the grid.{views}</p>\n"
        )
        for number, size in enumerate(sizes):
            scene = "scene"
            if photo := _photo_of_size(facts, size):
                scene = f"photo-{number}"
                yield photo_scene(scene, data_url(photo, JPEG))
            yield drawing(panels(steps, size, _grid_shape(facts, size)), scene)
    rows = [
        row for row in facts.rows() if row[0] in ("model", "weights", "recipe", "pooled", "regions")
    ]
    yield _table(rows)


def _example_sizes(found: Survey | None) -> list[tuple[int, int]]:
    """Return the most frequent size of images, and the most frequent one of the other orientation."""
    sizes = list(found.sizes) if found is not None else []
    if not sizes:
        return [UNKNOWN_SIZE]
    is_wide = sizes[0][0] > sizes[0][1]
    others = [size for size in sizes if (size[0] > size[1]) != is_wide and size[0] != size[1]]
    return [sizes[0], *others[:1]]


def _photo_of_size(facts: Facts, size: tuple[int, int]) -> bytes | None:
    """Return a thumbnail of an image of this size, if there is one."""
    pictures = facts.survey.pictures if facts.survey is not None else ()
    fitting = (each for each in pictures if (each.row.width, each.row.height) == size)
    return next(filter(None, (_thumbnail(facts, each) for each in fitting)), None)


def _grid_shape(facts: Facts, size: tuple[int, int]) -> GridShape | None:
    """Return the grid shape of images of this size, if it is known; that before pooling is not."""
    recipe = facts.summary.metadata.identity.recipe
    if "pool" in recipe or recipe.get("views") or facts.survey is None:
        return None
    shapes = [
        each.shape for each in facts.survey.pictures if (each.row.width, each.row.height) == size
    ]
    if shapes:
        return shapes[0]
    stored = list(facts.summary.records_by_shape)
    return GridShape.parse(stored[0]) if len(stored) == 1 else None


def _ids(facts: Facts) -> Iterator[str]:
    counts = {str(status): n for status, n in facts.summary.metadata.counts.items() if n}
    said = ", ".join(f"{n:,} {status}" for status, n in counts.items())
    yield f"<p>{counted(facts.summary.metadata.id_count, 'id')}: {escape(said)}.</p>\n"
    parts = [("ok" if status == Status.OK else "", float(n)) for status, n in counts.items()]
    yield share_bar(parts, said)
    if facts.reasons:
        rows = "".join(
            f'<tr><td class="number">{each.ids:,}</td><td>{_text(each.status)}</td>'
            f"<td>{_text(each.text)}</td><td>{_text(each.example)}</td></tr>\n"
            for each in facts.reasons
        )
        if facts.other_reasons:
            rows += (
                f'<tr><td class="number">{facts.other_reasons:,}</td><td></td>'
                f"<td>other reasons</td><td></td></tr>\n"
            )
        yield (
            f'<div class="wide" tabindex="0" role="region" aria-label="Reasons"><table><thead><tr>'
            f'<th class="number" scope="col">ids</th><th scope="col">status</th>'
            f'<th scope="col">reason</th><th scope="col">such as</th></tr></thead>\n'
            f"<tbody>{rows}</tbody></table></div>\n"
        )
    yield _table(row for row in facts.rows() if row[0] in ("grids", "numbers", "size", "shards"))


def _numbers(found: Survey) -> Iterator[str]:
    yield f"<p>{_text(sample_text(found))}.</p>\n"
    if found.unreadable:
        items = "".join(
            f"<li>{_text(each.image_id)}: {_text(each.reason)}</li>"
            for each in found.unreadable[:10]
        )
        yield f'<div class="warning"><strong>Records that could not be used</strong><ul>{items}</ul></div>\n'
    if found.grid is not None:
        yield _charts("cells", found.grid)
    if found.pooled is not None:
        yield f"<h3>Pooled vectors</h3>\n{_charts('pooled vectors', found.pooled)}"
    yield _table(number_rows(found))


def _charts(noun: str, stats: VectorStats) -> str:
    channels, norms = stats.channels, stats.norms
    dim = len(channels.mean)
    highest = int(np.abs(channels.mean).argmax())
    edges, counts = stats.histogram(MOST_COLUMNS)
    zeros = 100 * channels.zero_rate
    charts = [
        (
            "Mean and spread of each channel",
            f"Channels in the order of their mean; the band is one standard deviation. The mean farthest "
            f"from 0 is {number_text(channels.mean[highest])}, of channel {highest:,} of {dim:,}.",
            curve(channels.mean, spread=channels.std, name=f"mean of each channel of {noun}"),
        ),
        (
            "Zeros",
            f"How often a channel is 0, in %. {len(channels.dead):,} of {dim:,} channels are dead: 0 in "
            f"all {noun}. {len(channels.constant):,} have one other value.",
            curve(
                zeros, name=f"rate of zeros of each channel of {noun}, in %", limits=(0.0, 100.0)
            ),
        ),
        (
            "Norms",
            f"L2 norms of {noun}, on an axis of equal factors: {number_text(norms.mean.item())} on "
            f"average. {norms.zeros.item():,} of {channels.n:,} are 0 in every channel.",
            histogram(edges, counts, name=f"L2 norms of {noun}"),
        ),
    ]
    items = "".join(
        f"<li><figure><h3>{title}</h3>{chart}<figcaption>{text}</figcaption></figure></li>\n"
        for title, text, chart in charts
    )
    return f'<ul class="cards">\n{items}</ul>\n'


def _places(facts: Facts, found: Survey) -> Iterator[str]:
    yield (
        "<p>Over the images of the sample, cell by cell. Where features are right, places differ a "
        "little: borders, and what photographs have at the top or below. Single places with other "
        "norms point to artefacts, and a backbone whose position embeddings are lost gives places "
        "that do not differ at all.</p>\n"
    )
    for places in found.places:
        yield f"<h3>{places.shape.rows} x {places.shape.cols}, {counted(places.images, 'image')}</h3>\n"
        if places.dead:
            first = ", ".join(f"row {row} col {col}" for row, col in places.dead[:5])
            more = ", ..." if len(places.dead) > 5 else ""
            yield (
                f'<p class="warning">{counted(len(places.dead), "place")} of {places.shape.cells:,} '
                f"are 0 in every image: {first}{more}.</p>\n"
            )
        items = "".join(
            f"<li><figure>{heat_map(_as_seen(places, numbers), name=title)}"
            f"<figcaption><strong>{title}.</strong> {text}</figcaption></figure></li>\n"
            for title, text, numbers in _maps(places)
        )
        yield f'<ul class="tiles">\n{items}</ul>\n'


def _maps(places: PlaceStats) -> Iterator[tuple[str, str, np.ndarray]]:
    yield "Norm", "Mean over images of the L2 norm of the cell.", places.norm
    yield "Spread", "Standard deviation of that norm over images.", places.spread
    if places.bias is not None:
        text = (
            f"Distance of the mean vector of the place from that of all places. Places have "
            f"{100 * places.bias.share:.2g} % of the variance of cells; it would be "
            f"{100 * places.bias.chance:.2g} % if features did not depend on the place."
        )
        yield "Bias", text, places.bias.distance
    if np.nanmax(places.zero, initial=0) > 0:
        yield "Zeros", "Share of images in which the cell is 0 in every channel.", places.zero


def _as_seen(places: PlaceStats, numbers: np.ndarray) -> np.ndarray:
    """Return a map as it is shown: views at their elevations, the highest at the top."""
    if places.shape.cells == VIEWS.cells and places.shape.cols == 1:
        return numbers.reshape(VIEWS)[::-1]
    return numbers


def _origin(facts: Facts) -> Iterator[str]:
    about = facts.summary.metadata.about
    rows = list(facts.licences.items())
    if about.homepage:
        rows.append(("homepage", about.homepage))
    rows += [row for row in facts.rows() if row[0] in PROVENANCE]
    yield _table(rows)
    if NOT_STATED in facts.licences.values():
        yield (
            "<p>What is not stated is not known: ask whoever made the store before you use it for more "
            "than looking.</p>\n"
        )
    yield (
        "<p>The digest covers every feature and every id. A signature, if there is one, lies beside "
        "store.json as store.json.minisig or store.json.sig. To check both:</p>\n"
    )
    name = facts.commands[-2].rpartition(" ")[2]
    yield _code([f"clipfeat store verify {name} --signed-by KEY"])


def _use(facts: Facts) -> Iterator[str]:
    yield _code(facts.commands)
    yield _code(facts.load)
    citation = facts.summary.metadata.about.citation
    yield f"<h3>Cite</h3>\n{_code(citation.split(chr(10)) if citation else [facts.summary.cite])}"


def _code(lines: Sequence[str]) -> str:
    return f'<pre tabindex="0"><code>{_text(chr(10).join(lines))}</code></pre>\n'


def _table(rows: Iterable[tuple[str, str]]) -> str:
    body = "".join(
        f'<tr><th scope="row">{_text(k)}</th><td>{_text(v)}</td></tr>\n' for k, v in rows
    )
    return f"<table><tbody>\n{body}</tbody></table>\n" if body else ""


def _foot(facts: Facts) -> str:
    metadata = facts.summary.metadata
    return (
        f'<footer>\n<p class="faint">Made by <code>clipfeat store card</code> from the store with the '
        f"digest <code>{escape(metadata.digest)}</code>. This page loads nothing and runs "
        f"nothing.</p>\n</footer>\n</body>\n"
    )
