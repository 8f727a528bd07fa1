/**
 * The front page: is this server well, and a command that works against it.
 * @module
 */

import { accessToken, byId, copies, holdIcons, setIcon } from "./page.js";

async function showHealth() {
  const chip = byId("health");
  const ready = await fetch("/readyz").then((answer) => answer.ok, () => null);
  const [state, symbol, words] =
    ready === true
      ? ["good", "check", "Ready for calls"]
      : ready === false
        ? ["bad", "warning", "Not taking new calls now"]
        : ["bad", "warning", "Does not answer"];
  chip.className = `chip ${state}`;
  setIcon(chip.querySelector(".icon"), symbol);
  chip.querySelector("span").textContent = words;
}

async function showCommand() {
  let token = "$PARLEY_TOKEN";
  try {
    token = await accessToken("visitor", "lobby");
    byId("command-note").textContent = "The command carries a test token that is good for a day.";
  } catch {
    byId("command-note").textContent = "Put an access token of your own into PARLEY_TOKEN first.";
  }
  byId("command").textContent = `curl -H "Authorization: Bearer ${token}" ${location.origin}/v1/ice-servers`;
}

void holdIcons();
copies(byId("copy-command"), () => byId("command").textContent);
void showHealth();
void showCommand();
