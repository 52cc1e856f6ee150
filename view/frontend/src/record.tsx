// The middle of the page: an image, its grids in one store or two, and what else is pinned.

import { useEffect, useState } from "preact/hooks";

import { go, opened, PINS, type Address } from "./address";
import { comparable, Difference } from "./difference";
import { cellsOf, laidOut, nameOf, sameCell, type Cells } from "./geometry";
import type { Layer } from "./painting";
import { Id, short, To, Trouble, useSaid } from "./parts";
import { call, imageOf, useAnswer, useAnswers } from "./requests";
import { Scene } from "./scene";
import { parseShow, useShown, type Shown } from "./shown";
import type { Box, Session, StoredRecord, StoreInfo } from "./types";

/** The cell under the pointer, or that has the focus. */
export interface Pointed {
  store: string;
  id: string;
  cell: number;
}

interface Props {
  session: Session;
  store: StoreInfo; // the main one
  beside: StoreInfo | null;
  address: Address;
  pointed: Pointed | null;
  onPoint: (pointed: Pointed | null) => void;
}

type Size = readonly [width: number, height: number];

interface FigureProps extends Props {
  areas: readonly Box[]; // of the grids that are shown
  natural: Size | null;
  onSize: (size: Size) => void;
}

const recordCall = (store: string, id: string) => call("record", { store, id });

function areaOf(record: StoredRecord | null): Box[] {
  const cells = record && cellsOf(record);
  return cells ? [cells.area] : [];
}

export function RecordView(props: Props) {
  const { store, beside, address } = props;
  // The size of an image whose store does not know it, once the file has come.
  const [natural, setNatural] = useState<{ id: string; size: Size } | null>(null);
  const both = useAnswers<StoredRecord>(
    (beside ? [store, beside] : [store]).map(({ key }) =>
      address.id ? recordCall(key, address.id) : null,
    ),
  );
  const figures = {
    ...props,
    areas: both.flatMap(({ value }) => areaOf(value)),
    natural: natural?.id === address.id ? natural.size : null,
    onSize: (size: Size) => setNatural({ id: address.id, size }),
  };
  const pinned = address.pins.includes(address.id);
  const pins = pinned
    ? address.pins.filter((id) => id !== address.id)
    : [...address.pins, address.id];
  if (!address.id) return <p class="faint">Choose an image from the list.</p>;
  return (
    <article class="record" aria-label={address.id}>
      <header>
        <h1 title={address.id}>{address.id}</h1>
        <button
          type="button"
          aria-pressed={pinned}
          disabled={!pinned && address.pins.length >= PINS}
          title="Keep this image's grid in view, beside those of other images"
          onClick={() => go({ pins })}
        >
          {pinned ? "Pinned" : "Pin"}
        </button>
      </header>
      {beside && comparable(props.session, store, beside) && (
        <Difference stores={[store, beside]} address={address} />
      )}
      <div class="figures">
        {address.over === null && <ImageFigure {...figures} />}
        <StoreFigure key={store.key} {...figures} shown={store} />
        {beside && <StoreFigure key={beside.key} {...figures} shown={beside} />}
      </div>
    </article>
  );
}

/** The image alone, with the cell that is pointed at, of the first store that has its features. */
function ImageFigure({
  session,
  store: main,
  beside,
  address,
  pointed,
  areas,
  natural,
  onPoint,
  onSize,
}: FigureProps) {
  const stores = [main, ...(beside ? [beside] : [])];
  const answers = useAnswers<StoredRecord>(stores.map(({ key }) => recordCall(key, address.id)));
  const [fault, setFault] = useState({ url: "", times: 0 });
  const from = useAnswer<StoredRecord>(pointed && recordCall(pointed.store, pointed.id)).value;
  const found = answers.findIndex(({ value }) => value?.shape);
  const record = answers[found]?.value;
  const store = stores[found] ?? main;
  const url = record ? imageOf(store.key, record) : "";
  const times = fault.url === url ? fault.times : 0;
  const why = useAnswer<true>(times > 0 ? url : null); // an element does not say what went wrong
  const layout = record && laidOut(record, true, record.image_size ?? natural, areas);
  if (!session.images || !layout) return null;
  if (!record.has_image) return <p class="note">There is no image file of this id.</p>;
  if (why.problem) return <Trouble problem={why.problem} url={url} about="Image" />;
  if (times > 1) return <p class="note">The browser cannot show the file of this image.</p>;
  const { cells, around, aspect } = layout;
  const size = record.image_size ?? natural;
  const chosen =
    store === main && address.cell !== null && address.cell < cells.boxes.length
      ? address.cell
      : null;
  return (
    <figure>
      <Scene
        key={times}
        name={address.id}
        cells={cells}
        frame={around}
        aspect={aspect}
        layer={null}
        mask={record.mask}
        image={url}
        upright={record.upright}
        opacity={1}
        chosen={chosen}
        pointed={pointed?.id === address.id ? cellIn(cells, pointed, store.key, from) : null}
        onPoint={(cell) =>
          onPoint(cell === null ? null : { store: store.key, id: address.id, cell })
        }
        onChoose={(cell) => store === main && go({ cell })}
        onImageFault={() => setFault({ url, times: times + 1 })}
        onImageSize={onSize}
      />
      <figcaption>
        <p class="faint">Image{size && `, ${size.join(" x ")} pixels`}</p>
      </figcaption>
    </figure>
  );
}

/** The cell of a store that lies where the one pointed at, maybe of another store, does. */
function cellIn(
  cells: Cells,
  at: Pointed,
  store: string,
  from: StoredRecord | null,
): number | null {
  if (at.store === store) return at.cell < cells.boxes.length ? at.cell : null;
  const others = from && from.id === at.id ? cellsOf(from) : null;
  return others && sameCell(others, at.cell, cells);
}

function StoreFigure({
  session,
  store: main,
  shown: store,
  address,
  pointed,
  areas,
  natural,
  onPoint,
  onSize,
}: FigureProps & { shown: StoreInfo }) {
  const { id } = address;
  const ids = [id, ...address.pins.filter((pin) => pin !== id)];
  const urls = ids.map((one) => recordCall(store.key, one));
  const answers = useAnswers<StoredRecord>(urls);
  const records = new Map<string, StoredRecord>();
  answers.forEach(({ value }) => value?.shape && records.set(value.id, value));
  const record = answers[0]?.value ?? null;

  const at =
    pointed ?? (address.cell === null ? null : { store: main.key, id, cell: address.cell });
  const from = useAnswer<StoredRecord>(at && recordCall(at.store, at.id)).value;
  const there = at && records.get(at.id);
  const cells = there ? cellsOf(there) : null;
  const cell = at && cells ? cellIn(cells, at, store.key, from) : null;
  // One request about a cell at a time: the pointer may go over more cells than can be answered.
  const [source, setSource] = useState(at && cell !== null ? { id: at.id, cell } : null);
  const choice = parseShow(address.show);
  const shown = useShown(choice, store, session, address, ids, records, source);
  useEffect(() => {
    if (!shown.loading) setSource(at && cell !== null ? { id: at.id, cell } : null);
  }, [at?.id, cell, shown.loading]);
  const grid = record?.shape ? `grid of ${record.shape.join(" by ")} cells` : record?.status;
  useSaid(
    record && store.key === main.key ? `${id}: ${grid}, ${shown.quantity || "PCA colours"}` : "",
  );

  const withImage = session.images && record?.has_image === true;
  const layout = record && laidOut(record, withImage, record.image_size ?? natural, areas);
  const over = address.over !== null && withImage;
  const layer = shown.layers.get(id) ?? null;
  const describe = (one: number) => described(record, layer, shown.quantity, one);
  const here = at?.id === id ? cell : null;
  const mainRecord = useAnswer<StoredRecord>(recordCall(main.key, id)).value;
  const chosen =
    layout && address.cell !== null
      ? cellIn(layout.cells, { store: main.key, id, cell: address.cell }, store.key, mainRecord)
      : null;
  const choose = (one: number | null) => {
    const mainCells = mainRecord && cellsOf(mainRecord);
    if (one === null || store.key === main.key) go({ cell: one });
    else if (layout && mainCells) go({ cell: sameCell(layout.cells, one, mainCells) });
  };
  return (
    <figure aria-label={`Store ${store.key}`}>
      {answers[0]?.problem && (
        <Trouble
          problem={answers[0].problem}
          url={urls[0]!}
          about={`${id} in store ${store.key}`}
        />
      )}
      {record && record.status !== "ok" && (
        <p class="note">
          Store {store.key} has no features of this image: <strong>{record.status}</strong>
          {record.reason && `, ${record.reason}`}
        </p>
      )}
      {layout && (
        <Scene
          name={id}
          cells={layout.cells}
          frame={layout.around}
          aspect={layout.aspect}
          layer={layer ?? { rgb: [], values: null }}
          mask={record?.mask ?? null}
          image={over && record ? imageOf(store.key, record) : null}
          upright={record?.upright ?? true}
          opacity={over ? (address.over ?? 100) / 100 : 1}
          pointed={here}
          chosen={chosen}
          describe={describe}
          onPoint={(one) => onPoint(one === null ? null : { store: store.key, id, cell: one })}
          onChoose={choose}
          onImageSize={onSize}
        />
      )}
      <figcaption>
        <p>
          <span class="key">{store.key}</span> {store.model} · {store.recipe}
          {record?.shape && ` · ${record.shape.join("x")}x${record.dim}`}
        </p>
        {layout && (
          <p class="readout">
            {here !== null ? `${nameOf(layout.cells, here)}${describe(here)}` : "\u00a0"}
          </p>
        )}
        {record && <Legend shown={shown} />}
        {!answers[0]?.problem &&
          record?.status === "ok" &&
          shown.problems
            .slice(0, 1)
            .map(({ url, problem }) => <Trouble key={url} problem={problem} url={url} />)}
      </figcaption>
      <Pins
        {...{
          ids: ids.slice(1),
          answers: answers.slice(1),
          shown,
          store,
          address,
          pointed,
          onPoint,
        }}
        main={store.key === main.key}
      />
    </figure>
  );
}

function described(
  record: StoredRecord | null,
  layer: Layer | null,
  quantity: string,
  cell: number,
): string {
  if (record?.mask?.[cell] === false) return ", padding";
  const norm = record?.norms[cell];
  const value = layer?.values?.[cell];
  const named = (name: string, number: number | null | undefined) =>
    number === undefined ? "" : `, ${name} ${number === null ? "not finite" : short(number)}`;
  return named("norm", norm) + (quantity === "norm" ? "" : named(quantity, value));
}

function Legend({ shown: { scale, gradient, quantity, note, loading } }: { shown: Shown }) {
  return (
    <>
      {scale && (
        <p class="legend">
          <span class="number">{short(scale[0])}</span>
          <span class="gradient" style={{ background: gradient }} aria-hidden="true" />
          <span class="number">{short(scale[1])}</span>
          <span>{quantity}</span>
        </p>
      )}
      <p class="faint says">{note || (loading && !scale ? "…" : "")}</p>
    </>
  );
}

function Pins({
  ids,
  answers,
  shown,
  store,
  main,
  address,
  pointed,
  onPoint,
}: {
  ids: readonly string[];
  answers: ReturnType<typeof useAnswers<StoredRecord>>;
  shown: Shown;
  store: StoreInfo;
  main: boolean;
  address: Address;
  pointed: Pointed | null;
  onPoint: Props["onPoint"];
}) {
  if (ids.length === 0) return null;
  return (
    <ul class="pins" aria-label="Pinned images">
      {ids.map((id, k) => {
        const record = answers[k]?.value ?? null;
        const layout = record && laidOut(record, false);
        const here = pointed?.store === store.key && pointed.id === id ? pointed.cell : null;
        return (
          <li key={id}>
            {layout ? (
              <Scene
                name={id}
                cells={layout.cells}
                frame={layout.around}
                aspect={layout.aspect}
                layer={shown.layers.get(id) ?? { rgb: [], values: null }}
                mask={record.mask}
                image={null}
                opacity={1}
                pointed={here}
                chosen={null}
                onPoint={(cell) => onPoint(cell === null ? null : { store: store.key, id, cell })}
                onChoose={(cell) => go(main ? { id, cell } : opened(address, id))}
              />
            ) : (
              <p class="faint">{answers[k]?.problem?.text ?? record?.reason ?? "…"}</p>
            )}
            <span class="pin-name">
              <To address={address} change={opened(address, id)} title={id}>
                <Id text={id} />
              </To>
              <button
                type="button"
                aria-label={`Unpin ${id}`}
                onClick={() => go({ pins: address.pins.filter((pin) => pin !== id) })}
              >
                ×
              </button>
            </span>
          </li>
        );
      })}
    </ul>
  );
}
