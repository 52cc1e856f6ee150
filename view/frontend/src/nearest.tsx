// The cells of the store that are nearest to the chosen one, and the nearest images.

import { go, opened, PINS, type Address, type Change } from "./address";
import { laidOut, nameOf } from "./geometry";
import { Bar, counted, Id, To, Trouble, useSaid, whole } from "./parts";
import { call, imageOf, useAnswer } from "./requests";
import { orientation, Scene } from "./scene";
import type {
  Colours,
  NearestCells,
  NearestImages,
  Scanned,
  Session,
  StoredRecord,
  StoreInfo,
} from "./types";

const COUNT = 12;

interface Props {
  session: Session;
  store: StoreInfo;
  address: Address;
}

export function Nearest(props: Props) {
  const { session, store, address } = props;
  const record = useAnswer<StoredRecord>(
    address.id ? call("record", { store: store.key, id: address.id }) : null,
  ).value;
  if (!record) return null;
  if (session.static)
    return (
      <p class="faint">
        This page is a sample of a store. <code>clipfeat view</code> also finds the nearest cells
        and images, shows texts, and asks trained runs.
      </p>
    );
  if (!record.shape) return <p class="faint">Without features there is nothing near.</p>;
  return (
    <>
      <Cells {...props} />
      <Images {...props} />
    </>
  );
}

function ScannedOf({ scanned }: { scanned: Scanned }) {
  const all = scanned.how === "all" || scanned.images === scanned.of;
  return (
    <p class="faint">
      {all
        ? `Exact, over all ${counted(scanned.of, "image")}`
        : `Exact, over a sample of ${whole(scanned.images)} of ${counted(scanned.of, "image")}`}
    </p>
  );
}

function Cells({ session, store, address }: Props) {
  const { id, cell } = address;
  const url =
    cell === null ? null : call("nearest/cells", { store: store.key, id, cell, count: COUNT });
  const { value, problem, loading } = useAnswer<NearestCells>(url);
  useSaid(value ? `${value.cells.length} nearest cells` : "");
  return (
    <section aria-labelledby="nearest-cells">
      <h2 id="nearest-cells">Nearest cells</h2>
      {url === null && <p class="faint">Click a cell of the grid, or press Enter on one.</p>}
      {problem && url && <Trouble problem={problem} url={url} />}
      {loading && <p class="faint">…</p>}
      {value && <ScannedOf scanned={value.scanned} />}
      <ol class="near">
        {value?.cells.map((found) => (
          <Found
            key={`${found.id} ${found.cell}`}
            {...{ session, store, address, ...found }}
            change={{ id: found.id, cell: found.cell }}
          />
        ))}
      </ol>
    </section>
  );
}

function Images({ session, store, address }: Props) {
  const url = call("nearest/images", { store: store.key, id: address.id, count: COUNT });
  const { value, problem, loading } = useAnswer<NearestImages>(url);
  return (
    <section aria-labelledby="nearest-images">
      <h2 id="nearest-images">
        Nearest images {value && <span class="faint">by {value.by}</span>}
      </h2>
      {problem && <Trouble problem={problem} url={url} />}
      {loading && <p class="faint">…</p>}
      {value && <ScannedOf scanned={value.scanned} />}
      <ol class="near">
        {value?.images.map((found) => (
          <Found
            key={found.id}
            {...{ session, store, address, ...found }}
            cell={null}
            change={opened(address, found.id)}
          />
        ))}
      </ol>
    </section>
  );
}

function PinButton({ address, id }: { address: Address; id: string }) {
  const pinned = address.pins.includes(id);
  if (id === address.id) return null;
  return (
    <button
      type="button"
      class="quiet"
      aria-label={`Pin ${id}`}
      aria-pressed={pinned}
      disabled={!pinned && address.pins.length >= PINS}
      onClick={() =>
        go({ pins: pinned ? address.pins.filter((pin) => pin !== id) : [...address.pins, id] })
      }
    >
      {pinned ? "✓" : "+"}
    </button>
  );
}

/** One that was found: its image, if there is one, its grid's colours, and how near it is. */
function Found({
  session,
  store,
  address,
  id,
  cell,
  similarity,
  change,
}: Props & {
  id: string;
  cell: number | null;
  similarity: number;
  change: Change;
}) {
  const record = useAnswer<StoredRecord>(call("record", { store: store.key, id })).value;
  const drawn = useAnswer<Colours>(call("colours", { store: store.key, id, show: "pca" })).value;
  const layout = record && laidOut(record, false);
  return (
    <li>
      <span class={`thumbnails ${session.images ? "two" : ""}`} aria-hidden="true">
        {session.images && record?.has_image && (
          <img
            src={imageOf(store.key, record)}
            alt=""
            loading="lazy"
            style={orientation(record.upright)}
          />
        )}
        {layout && (
          <Scene
            name={id}
            cells={layout.cells}
            frame={layout.around}
            aspect={layout.aspect}
            layer={{ rgb: drawn?.rgb ?? [], values: null }}
            mask={record.mask}
            image={null}
            opacity={1}
            pointed={null}
            chosen={cell}
            onPoint={() => undefined}
            onChoose={() => undefined}
          />
        )}
      </span>
      <div>
        <To address={address} change={change} title={id}>
          <Id text={id} />
        </To>
        {cell !== null && <span class="faint">{layout ? nameOf(layout.cells, cell) : "…"}</span>}
        <Bar share={similarity} text={similarity.toFixed(3)} />
      </div>
      <PinButton address={address} id={id} />
    </li>
  );
}
