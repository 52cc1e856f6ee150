// The page: stores above, images at the left, the record in the middle, what is near at the right.

import { render } from "preact";
import { useEffect, useState } from "preact/hooks";

import "./app.css";
import { go, SIDES, useAddress, type Side } from "./address";
import { Choose } from "./choose";
import { Compare } from "./compare";
import { Ids } from "./ids";
import { Nearest } from "./nearest";
import { Fenced, LiveRegion, say, To, Trouble, whole } from "./parts";
import { RecordView, type Pointed } from "./record";
import { call, useAnswer } from "./requests";
import { Runs } from "./runs";
import type { Session, StoreInfo } from "./types";

const SIDE_NAMES: Record<Side, string> = { near: "Nearest", runs: "Runs", compare: "Compare" };

function App() {
  const url = call("session");
  const { value, problem } = useAnswer<Session>(url);
  return (
    <>
      <LiveRegion />
      {problem && <Trouble problem={problem} url={url} about="The page cannot start" />}
      {!value && !problem && <p class="faint">Loading …</p>}
      {value && (
        <Fenced name="The page">
          <Explorer session={value} />
        </Fenced>
      )}
    </>
  );
}

function Explorer({ session }: { session: Session }) {
  const address = useAddress();
  const [pointed, setPointed] = useState<Pointed | null>(null);
  const { stores } = session;
  const store = stores.find(({ key }) => key === address.store) ?? stores[0];
  const other =
    stores.find(({ key }) => key === address.beside && key !== store?.key) ??
    stores.find(({ key }) => key !== store?.key);
  const beside = address.beside === "none" ? null : (other ?? null);
  const sides = SIDES.filter(
    (side) => side === "near" || session.runs.length >= (side === "runs" ? 1 : 2),
  );
  const side = sides.find((name) => name === address.side) ?? "near";
  useEffect(() => setPointed(null), [address.id, store?.key]);
  useEffect(() => {
    document.title = [address.id, store?.model, "clipfeat"].filter(Boolean).join(" · ");
  }, [address.id, store?.model]);

  if (!store)
    return (
      <p class="trouble" role="alert">
        The server has no store.
      </p>
    );
  const point = (next: Pointed | null) =>
    setPointed((last) =>
      last?.store === next?.store && last?.id === next?.id && last?.cell === next?.cell
        ? last
        : next,
    );
  return (
    <>
      <Head session={session} store={store} beside={beside} />
      <div class="columns">
        <Fenced name="The list">
          <Ids {...{ session, store, address }} />
        </Fenced>
        <main>
          <Fenced name="The choice">
            <Choose {...{ session, store, beside, address }} />
          </Fenced>
          <Fenced name="The record" key={address.id}>
            <RecordView {...{ session, store, beside, address, pointed }} onPoint={point} />
          </Fenced>
        </main>
        <aside aria-label="Nearest images and runs">
          {sides.length > 1 && (
            <nav class="segments" aria-label="At the side">
              {sides.map((name) => (
                <To
                  key={name}
                  address={address}
                  change={{ side: name }}
                  class={name === side ? "on" : ""}
                >
                  {SIDE_NAMES[name]}
                </To>
              ))}
            </nav>
          )}
          <Fenced name="This part" key={side}>
            {side === "near" && <Nearest session={session} store={store} address={address} />}
            {side === "runs" && <Runs session={session} address={address} />}
            {side === "compare" && <Compare session={session} address={address} />}
          </Fenced>
        </aside>
      </div>
    </>
  );
}

function Head({
  session,
  store,
  beside,
}: {
  session: Session;
  store: StoreInfo;
  beside: StoreInfo | null;
}) {
  const copy = () => {
    navigator.clipboard.writeText(location.href).then(
      () => say("The link is copied"),
      () => say("The browser does not let the page copy; the address bar has the link"),
    );
  };
  return (
    <header class="head">
      <strong class="brand" title={`clipfeat ${session.version}`}>
        clipfeat view
      </strong>
      <div class="stores">
        {session.stores.map((one) => (
          <details key={one.key} class={one === store || one === beside ? "store on" : "store"}>
            <summary>
              <span class="key">{one.key}</span> {one.model}
              <span class="faint"> {whole(one.records)} records</span>
            </summary>
            <div class="about">
              <p>{one.sentence}</p>
              <dl>
                <dt>Place</dt>
                <dd>{one.location}</dd>
                <dt>Digest</dt>
                <dd>
                  <code>{one.digest}</code>
                </dd>
                <dt>Recipe</dt>
                <dd>{one.recipe}</dd>
                <dt>Dim</dt>
                <dd>{one.dim}</dd>
                {!one.text.can && (
                  <>
                    <dt>Texts</dt>
                    <dd>{one.text.why}</dd>
                  </>
                )}
              </dl>
            </div>
          </details>
        ))}
      </div>
      {session.stores.length > 1 && (
        <label>
          <span class="faint">Store</span>
          <select
            value={store.key}
            onChange={(event) => go({ store: event.currentTarget.value, cell: null, beside: "" })}
          >
            {session.stores.map(({ key }) => (
              <option value={key}>{key}</option>
            ))}
          </select>
        </label>
      )}
      {session.stores.length > 1 && (
        <label>
          <span class="faint">Beside</span>
          <select
            value={beside?.key ?? "none"}
            onChange={(event) => go({ beside: event.currentTarget.value })}
          >
            <option value="none">nothing</option>
            {session.stores
              .filter(({ key }) => key !== store.key)
              .map(({ key }) => (
                <option value={key}>{key}</option>
              ))}
          </select>
        </label>
      )}
      <button type="button" class="copy" onClick={copy}>
        Copy link
      </button>
    </header>
  );
}

const place = document.getElementById("page");
place?.replaceChildren();
if (place) render(<App />, place);
