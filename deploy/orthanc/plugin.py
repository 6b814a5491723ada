# SPDX-License-Identifier: GPL-3.0-or-later
# Orthanc's authors hold that a script which its Python plugin runs is to be under the GPL; the gateway itself is not, and this file
# imports nothing of it: they speak HTTP with each other.
"""Orthanc beside a clinical AI gateway: tells it when a series has come, and lets people send a series to AI.

It only pokes. The gateway reads Orthanc's log of changes itself, so nothing is missed when this file is not loaded, the gateway is
away, or either is killed. Whatever the gateway does, Orthanc goes on: callbacks put a word into a bounded queue and return; one thread
speaks with the gateway, within seconds, and drops what it cannot say. From orthanc-python 4.0 on (Debian 12); stdlib only.

Configuration of Orthanc, all keys but Url and Token as they are by default:

    "AiGateway": {
      "Url": "http://127.0.0.1:8080",   // [web] of the gateway
      "Token": "...",                   // gateway tokens make NAME --role operator
      "Peer": "orthanc",                // the gateway's name for this Orthanc ([[peers]])
      "Authorities": "",                // who signed the gateway's certificate (PEM), for https
      "Timeout": 3,                     // seconds, for everything that is asked of it
      "Filter": false,                  // answer C-STORE with A700 (come again) while the gateway takes nothing
      "Buttons": true                   // "Send to AI" in Orthanc Explorer
    }

Routes: GET /ai/status, GET /ai/pipelines, GET /ai/series/{id}, POST /ai/send {"series": id, "pipeline": name}. How far the work on a
series is, is metadata 7402 of it, which the gateway writes.
"""

import json
import queue
import ssl
import threading
import time
import urllib.error
import urllib.request

import orthanc

OUT_OF_RESOURCES = 0xA700
POKES, WAITS = 64, (1.0, 10.0)
MOST_ANSWER = 1024 * 1024
DOOR_SECONDS = 5.0


def settings():
    """The section of the configuration over the defaults; a configuration that is not understood is none."""
    given = {}
    try:
        given = dict(json.loads(orthanc.GetConfiguration()).get("AiGateway") or {})
    except Exception as error:
        orthanc.LogError(f"AI gateway: the configuration is not understood: {type(error).__name__}")
    known = {
        "Url": "http://127.0.0.1:8080", "Token": "", "Peer": "orthanc", "Authorities": "", "Timeout": 3, "Filter": False,
        "Buttons": True,
    }  # fmt: skip
    return {**known, **given}


class NoAnswer(Exception):
    """The gateway does not answer, or says no; `status` is what we answer with then."""

    def __init__(self, status, words):
        super().__init__(words)
        self.status = status


class Gateway:
    """The other side, by HTTP."""

    def __init__(self, known):
        self.url, self.token, self.peer = str(known["Url"]).rstrip("/"), str(known["Token"]), str(known["Peer"])
        self.timeout = min(max(float(known["Timeout"]), 0.5), 30.0)
        self.context = ssl.create_default_context(cafile=known["Authorities"] or None)

    def ask(self, method, path, body=None):
        """What it says, as JSON. Raises NoAnswer, and nothing else."""
        try:
            request = urllib.request.Request(
                f"{self.url}/api/v1/orthanc/{path}", method=method, data=None if body is None else json.dumps(body).encode(),
                headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
            )  # fmt: skip
            with urllib.request.urlopen(request, timeout=self.timeout, context=self.context) as answer:
                said = answer.read(MOST_ANSWER)
            return json.loads(said) if said.strip() else None
        except urllib.error.HTTPError as error:
            with error:
                raise NoAnswer(error.code, _reason(error)) from None
        except Exception as error:
            raise NoAnswer(503, f"the gateway does not answer ({type(error).__name__})") from None


def _reason(error):
    try:
        said = json.loads(error.read(4096))
        return str(said.get("detail") or said.get("title") or f"the gateway answers {error.code}")
    except Exception:
        return f"the gateway answers {error.code}"


class Poker:
    """One thread that tells the gateway to look; and, where that is wanted, looks itself whether its door is open."""

    def __init__(self, gateway, is_filtering):
        self.gateway, self.is_filtering = gateway, is_filtering
        self.pokes, self.stopping = queue.Queue(POKES), threading.Event()
        self.is_open, self.answered, self.failures = True, "never", 0
        self.thread = threading.Thread(target=self._run, name="ai-gateway", daemon=True)

    def start(self):
        if not self.thread.is_alive():
            self.thread.start()

    def stop(self):
        """What is under way has its timeout to end."""
        self.stopping.set()
        self.poke()
        if self.thread.is_alive():
            self.thread.join(self.gateway.timeout)

    def poke(self):
        """Never waits; where the queue is full the gateway will look anyway."""
        try:
            self.pokes.put_nowait(None)
        except queue.Full:
            pass

    def _run(self):
        wait = WAITS[0]
        while not self.stopping.is_set():
            try:
                self.pokes.get(timeout=DOOR_SECONDS if self.is_filtering else 60.0)
                while True:  # one word for all of them
                    self.pokes.get_nowait()
            except queue.Empty:
                pass
            if self.stopping.is_set():
                return
            wait = WAITS[0] if self._say() else min(2 * wait, WAITS[1])
            if self.failures and not self.stopping.wait(wait):
                self.poke()

    def _say(self):
        """Whether the gateway has answered. While it does not, nobody is refused because of it."""
        try:
            self.gateway.ask("POST", "poke", {})
            if self.is_filtering:
                self.is_open = bool(self.gateway.ask("GET", "door").get("open", True))
        except Exception as error:
            self.is_open, self.failures = True, self.failures + 1
            if self.failures == 1:
                orthanc.LogWarning(f"AI gateway: {error}; it is asked again")
            return False
        self.answered, self.failures = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), 0
        return True


KNOWN = settings()
GATEWAY = Gateway(KNOWN)
POKER = Poker(GATEWAY, bool(KNOWN["Filter"]))


def on_change(change, _level, _resource):
    if change in (orthanc.ChangeType.STABLE_SERIES, orthanc.ChangeType.STABLE_STUDY):
        POKER.poke()
    elif change == orthanc.ChangeType.ORTHANC_STARTED:
        POKER.start()
        POKER.poke()
    elif change == orthanc.ChangeType.ORTHANC_STOPPED:
        POKER.stop()


def on_c_store(_instance):
    """0x0000 lets it in; what the gateway said last is believed, it is not asked here."""
    return 0x0000 if POKER.is_open else OUT_OF_RESOURCES


def answering(handle):
    """A route: whatever goes wrong becomes an answer."""

    def route(output, _uri, **request):
        try:
            output.AnswerBuffer(json.dumps(handle(request)), "application/json")
        except NoAnswer as error:
            _refuse(output, error.status if 400 <= error.status < 600 else 502, str(error))
        except Exception as error:
            orthanc.LogError(f"AI gateway: {type(error).__name__} in a route")
            _refuse(output, 500, type(error).__name__)

    return route


def _refuse(output, status, words):
    body = json.dumps({"reason": words})
    try:
        output.SendHttpStatus(status, body, len(body))
    except TypeError:  # a plugin that takes the length from the text
        output.SendHttpStatus(status, body)


def status(_request):
    return {
        "gateway": GATEWAY.url, "answered": POKER.answered, "failures": POKER.failures, "door": POKER.is_open,
        "waiting": POKER.pokes.qsize(), "filter": POKER.is_filtering,
    }  # fmt: skip


def pipelines(_request):
    return GATEWAY.ask("GET", "pipelines")


def series(request):
    return GATEWAY.ask("GET", f"series/{_uids(request['groups'][0])[1]}")


def send(request):
    if request.get("method") != "POST":
        raise NoAnswer(405, "expected POST")
    try:
        asked = json.loads(request.get("body") or b"{}")
        resource, pipeline = str(asked["series"]), str(asked["pipeline"])
    except (ValueError, KeyError, TypeError):
        raise NoAnswer(400, "expected series and pipeline as JSON") from None
    study, uid = _uids(resource)
    order = {"peer": GATEWAY.peer, "study_instance_uid": study, "series_instance_uid": uid, "pipeline": pipeline}
    return GATEWAY.ask("POST", "orders", order)


def _uids(resource):
    """Study and Series Instance UID of Orthanc's id of a series."""
    if not all(one in "0123456789abcdef-" for one in resource):
        raise NoAnswer(400, "expected Orthanc's id of a series")
    try:
        found = json.loads(orthanc.RestApiGet(f"/series/{resource}"))
        study = json.loads(orthanc.RestApiGet(f"/studies/{found['ParentStudy']}"))
        return study["MainDicomTags"]["StudyInstanceUID"], found["MainDicomTags"]["SeriesInstanceUID"]
    except Exception:
        raise NoAnswer(404, "there is no such series") from None


BUTTONS = """
$('#series').live('pagebeforecreate', function() {
  var button = $('<a>').attr('data-role', 'button').attr('href', '#').attr('id', 'ai-gateway')
    .attr('data-icon', 'forward').attr('data-theme', 'e').text('Send to AI');
  button.insertBefore($('#series-delete').parent().parent());
  button.click(function() {
    var id = $.mobile.pageData ? $.mobile.pageData.uuid : '';
    var told = function(answer) { alert(answer.responseText || 'The AI gateway does not answer.'); };
    $.ajax({url: '../ai/pipelines', dataType: 'json', error: told, success: function(names) {
      var items = $('<ul>').attr('data-divider-theme', 'd').attr('data-role', 'listview');
      $.each(names, function(_, name) {
        var item = $('<a href="#" rel="close">').text(name);
        item.click(function() {
          $.ajax({url: '../ai/send', type: 'POST', dataType: 'json', error: told,
            data: JSON.stringify({series: id, pipeline: name}), success: function(answer) { alert(answer.said); }});
        });
        items.append($('<li>').append(item));
      });
      $('#dialog').simpledialog2({mode: 'blank', animate: false, forceInput: false, headerText: 'Which pipeline?',
        headerClose: true, width: '100%', blankContent: items});
    }});
  });
});
"""

orthanc.RegisterOnChangeCallback(on_change)
orthanc.RegisterRestCallback("/ai/status", answering(status))
orthanc.RegisterRestCallback("/ai/pipelines", answering(pipelines))
orthanc.RegisterRestCallback("/ai/series/([0-9a-f-]+)", answering(series))
orthanc.RegisterRestCallback("/ai/send", answering(send))
if KNOWN["Filter"] and hasattr(orthanc, "RegisterIncomingCStoreInstanceFilter"):
    orthanc.RegisterIncomingCStoreInstanceFilter(on_c_store)
if KNOWN["Buttons"] and hasattr(orthanc, "ExtendOrthancExplorer"):
    orthanc.ExtendOrthancExplorer(BUTTONS)
