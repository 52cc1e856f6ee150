// The examples on which two runs differ most.

import { useState } from "preact/hooks";

import { go, opened, type Address, type Change } from "./address";
import { counted, short, To, Trouble, useSaid, whole } from "./parts";
import { call, useAnswers } from "./requests";
import type { Compared, RunInfo, Session } from "./types";

const PAGE = 50;

export function Compare({ session, address }: { session: Session; address: Address }) {
  const runs = session.runs;
  const pair = [
    runs.find((run) => run.key === address.runs[0]) ?? runs[0],
    runs.find((run) => run.key === address.runs[1]) ?? runs[1],
  ];
  const [first, second] = pair;
  if (!first || !second)
    return <p class="faint">Two runs are needed: --run FOLDER --run FOLDER.</p>;
  const pick = (place: 0 | 1) => (event: Event) => {
    const key = (event.currentTarget as HTMLSelectElement).value;
    go({ runs: place === 0 ? [key, second.key] : [first.key, key] });
  };
  const options = runs.map((run) => (
    <option value={run.key}>
      {run.key} {run.folder}
    </option>
  ));
  return (
    <section aria-labelledby="compare">
      <h2 id="compare">Where two runs differ</h2>
      <p class="pair">
        <select aria-label="First run" value={first.key} onChange={pick(0)}>
          {options}
        </select>
        <select aria-label="Second run" value={second.key} onChange={pick(1)}>
          {options}
        </select>
      </p>
      <Table key={`${first.key} ${second.key}`} first={first} second={second} address={address} />
    </section>
  );
}

/** What the row's link shows: its image, and its question or hypothesis asked of the runs. */
function change(run: RunInfo, id: string, text: string, address: Address): Change {
  const opening: Change = { ...opened(address, id), side: "runs" };
  if (run.task === "vqa") return { ...opening, question: text };
  if (run.task === "ve") return { ...opening, hypothesis: text };
  return { ...opening, caption: true };
}

function Table({ first, second, address }: { first: RunInfo; second: RunInfo; address: Address }) {
  const [pages, setPages] = useState(1);
  const urls = Array.from({ length: pages }, (_, page) =>
    call("compare", { runs: [first.key, second.key], start: page * PAGE, count: PAGE }),
  );
  const answers = useAnswers<Compared>(urls);
  const broken = answers.findIndex((answer) => answer.problem);
  const rows = answers.flatMap(({ value }) => value?.examples ?? []);
  const { n, differ } = answers[0]?.value ?? { n: 0, differ: 0 };
  const counts = `${counted(differ, "example")} of ${whole(n)} with different scores, in per cent`;
  useSaid(n ? counts : "");
  return (
    <>
      {broken >= 0 && <Trouble problem={answers[broken]!.problem!} url={urls[broken]!} />}
      {answers.some((answer) => answer.loading) && <p class="faint">…</p>}
      {n > 0 && (
        <table>
          <caption class="faint">{counts}</caption>
          <thead>
            <tr>
              <th scope="col">Example</th>
              <th scope="col">{first.key}</th>
              <th scope="col">{second.key}</th>
            </tr>
          </thead>
          <tbody>
            {rows.map(({ example, id, text, scores }) => (
              <tr key={example}>
                <td>
                  {id === null ? (
                    text || example
                  ) : (
                    <To address={address} change={change(first, id, text, address)} title={id}>
                      {text || example}
                    </To>
                  )}
                </td>
                {scores.map((score, k) => (
                  <td class={`number ${score > (scores[1 - k] ?? score) ? "better" : ""}`}>
                    {short(score)}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {rows.length > 0 && rows.length < n && (
        <button type="button" onClick={() => setPages(pages + 1)}>
          Show more
        </button>
      )}
    </>
  );
}
