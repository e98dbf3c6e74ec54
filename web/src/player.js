// Plays a clip from its start to its end, or says that it cannot.
import * as data from "./data.js";

const $ = (id) => document.getElementById(id);

// `changed()` is called when another clip is played, or none.
export function createPlayer(changed) {
  const audio = $("audio");
  let played = null;

  audio.addEventListener("error", () => {
    audio.hidden = true;
    $("player-error").hidden = false;
    $("player-path").textContent = data.shown(data.path(played));
  });

  $("close").addEventListener("click", () => {
    audio.pause();
    $("player").hidden = true;
    played = null;
    changed();
  });

  return {
    played: () => played,
    play(row) {
      played = row;
      $("player").hidden = false;
      $("player-name").textContent = data.shown(data.name(row));
      $("player-times").textContent = data.times(row);
      $("player-error").hidden = true;
      audio.hidden = false;
      audio.src = `${data.link(row)}#t=${data.start[row]},${data.end[row]}`;
      audio.play().catch(() => {}); // its event says what was wrong
      changed();
    },
  };
}
