// The list of images: search, filters, and rows of which only those that are seen are loaded.

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

import { go, opened, type Address } from "./address";
import { counted, Id, Trouble, useSaid, useSettled, whole } from "./parts";
import { call, useAnswers } from "./requests";
import type { IdPage, IdRow, Session, StoreInfo } from "./types";

const ROW = 26; // pixels, as in app.css
const PAGE = 200; // ids of one request
const TALLEST = 8_000_000; // pixels; browsers end elements between 16 and 33 million
const SCROLLING = 60; // milliseconds without a change before pages are asked for

export function Ids({
  session,
  store,
  address,
}: {
  session: Session;
  store: StoreInfo;
  address: Address;
}) {
  return (
    <section class="ids" aria-label="Images of the store">
      <Filters store={store} address={address} sampled={session.static === true} />
      <List store={store} address={address} />
    </section>
  );
}

function Filters({
  store,
  address,
  sampled,
}: {
  store: StoreInfo;
  address: Address;
  sampled: boolean;
}) {
  const named = (name: string, count: number) => (sampled ? name : `${name} (${whole(count)})`);
  const timer = useRef(0);
  const search = (event: Event) => {
    const { value } = event.currentTarget as HTMLInputElement;
    clearTimeout(timer.current);
    timer.current = setTimeout(() => go({ search: value }, "refine"), 150);
  };
  const pick = (name: "status" | "shape") => (event: Event) =>
    go({ [name]: (event.currentTarget as HTMLSelectElement).value });
  const shapes = store.shapes.map(({ shape, count }) => [shape.join("x"), count] as const);
  return (
    <form class="filters" role="search" onSubmit={(event) => event.preventDefault()}>
      <label class="wide">
        <span class="unseen">Search ids</span>
        <input type="search" value={address.search} placeholder="Search ids" onInput={search} />
      </label>
      <label>
        <span class="unseen">Status</span>
        <select value={address.status} onChange={pick("status")}>
          <option value="">any status</option>
          {Object.entries(store.statuses).map(([name, count]) => (
            <option value={name}>{named(name, count)}</option>
          ))}
        </select>
      </label>
      <label>
        <span class="unseen">Grid shape</span>
        <select value={address.shape} onChange={pick("shape")}>
          <option value="">any shape</option>
          {shapes.map(([name, count]) => (
            <option value={name}>{named(name, count)}</option>
          ))}
        </select>
      </label>
    </form>
  );
}

/** Which rows a scrolled list shows. Beyond TALLEST a pixel of scrolling is several of rows. */
function windowOf(total: number, scrolled: number, seen: number) {
  const full = total * ROW;
  const height = Math.min(full, TALLEST);
  const ratio = height > seen ? (full - seen) / (height - seen) : 1;
  const offset = Math.max(0, Math.min(scrolled * ratio, full - seen));
  const first = Math.max(0, Math.floor(offset / ROW) - 2);
  const last = Math.min(total, Math.ceil((offset + seen) / ROW) + 2);
  return { height, ratio, offset, first, last };
}

function List({ store, address }: { store: StoreInfo; address: Address }) {
  const { search, status, shape, id } = address;
  const filter = [store.key, search, status, shape].join("\n");
  const list = useRef<HTMLDivElement>(null);
  const [scrolled, setScrolled] = useState(0);
  const [seen, setSeen] = useState(600);
  const [active, setActive] = useState(-1); // the place of the row that keys start from
  const pressed = useRef(false); // a key has moved it, and the image has not followed yet
  const [total, setTotal] = useState(0);

  const rows = windowOf(total, scrolled, seen);
  const from = Math.floor(rows.first / PAGE);
  const pages = [from, Math.max(from, Math.floor((rows.last - 1) / PAGE))];
  const wanted = useSettled(pages, pages.join(), SCROLLING);
  const url = (page: number) =>
    call("ids", { store: store.key, search, status, shape, start: page * PAGE, count: PAGE });
  const urls = [...new Set(wanted)].map(url);
  const answers = useAnswers<IdPage>(urls);
  const known = new Map<number, IdRow>();
  answers.forEach(({ value }) => {
    value?.ids.forEach((row, k) => known.set(value.start + k, row));
  });
  const broken = answers.findIndex((answer) => answer.problem);
  const found = answers.find((answer) => answer.value)?.value?.total ?? null;
  useEffect(() => {
    if (found !== null) setTotal(found);
  }, [found]);
  useSaid(found === null ? "" : counted(found, "image"));

  useLayoutEffect(() => {
    const watched = list.current;
    if (!watched) return undefined;
    const observer = new ResizeObserver(() => setSeen(watched.clientHeight));
    observer.observe(watched);
    return () => observer.disconnect();
  }, []);
  useEffect(() => {
    list.current?.scrollTo(0, 0);
    setScrolled(0);
    setActive(-1);
  }, [filter]);
  useEffect(() => {
    if (total === 0) return; // the list has no height yet
    const first = known.get(0);
    if (!id && first) go({ id: first.id }, "refine");
    const place = [...known].find(([, row]) => row.id === id)?.[0];
    if (place === undefined || known.get(active)?.id === id || pressed.current) return;
    if (scrolled === 0)
      move(place); // an address was opened: its row comes into view
    else setActive(place);
  }, [id, known.size, filter, total]);

  const latest = useRef(active); // keys may come faster than the list is drawn
  latest.current = active;
  const move = (place: number) => {
    const next = Math.max(0, Math.min(total - 1, place));
    latest.current = next;
    setActive(next);
    const box = list.current;
    const top = next * ROW;
    const low = top - seen + ROW;
    if (box && (top < rows.offset || low > rows.offset))
      box.scrollTop = (top < rows.offset ? top : low) / rows.ratio;
  };
  const step = Math.max(1, Math.floor(seen / ROW) - 1);
  const press = (event: KeyboardEvent) => {
    const at = latest.current >= 0 ? latest.current : rows.first;
    const places: Record<string, number> = {
      ArrowDown: latest.current + 1,
      ArrowUp: at - 1,
      PageDown: at + step,
      PageUp: at - step,
      Home: 0,
      End: total - 1,
    };
    const place = places[event.key];
    if (place === undefined || total === 0) return;
    event.preventDefault();
    pressed.current = true;
    move(place);
  };
  // The list follows the keys at once; the image, when they rest and the row is known.
  const rested = useSettled(active, String(active), 80);
  const restedId = known.get(rested)?.id;
  useEffect(() => {
    if (pressed.current && restedId !== undefined && restedId !== id)
      go(opened(address, restedId), "refine");
    // A key pressed meanwhile moved on: the address, which is behind, must not call it back.
    pressed.current &&= restedId === undefined || rested !== latest.current;
  }, [rested, restedId]);

  const drawn = Array.from({ length: rows.last - rows.first }, (_, k) => rows.first + k);
  return (
    <>
      <p class="count" aria-hidden="true">
        {found === null ? "…" : counted(found, "image")}
      </p>
      {broken >= 0 && <Trouble problem={answers[broken]!.problem!} url={urls[broken]!} />}
      <div
        ref={list}
        class="list"
        role="listbox"
        aria-label="Images"
        tabIndex={0}
        aria-activedescendant={
          active >= rows.first && active < rows.last ? `row-${active}` : undefined
        }
        onScroll={(event) => setScrolled(event.currentTarget.scrollTop)}
        onKeyDown={press}
      >
        <div class="rows" style={{ height: `${rows.height}px` }}>
          {drawn.map((place) => {
            const row = known.get(place);
            const top = `${scrolled + place * ROW - rows.offset}px`;
            return (
              <div
                key={place}
                id={`row-${place}`}
                class={`row ${place === active ? "active" : ""}`}
                role="option"
                aria-selected={row !== undefined && row.id === id}
                aria-posinset={place + 1}
                aria-setsize={total}
                style={{ top }}
                title={row?.reason ?? row?.id ?? ""}
                onClick={() => {
                  if (!row) return;
                  setActive(place);
                  go(opened(address, row.id));
                }}
              >
                <Id text={row?.id ?? "…"} />
                {row &&
                  (row.status === "ok" ? (
                    <span class="faint">{row.shape?.join("x")}</span>
                  ) : (
                    <span class="bad">{row.status}</span>
                  ))}
              </div>
            );
          })}
        </div>
      </div>
    </>
  );
}
