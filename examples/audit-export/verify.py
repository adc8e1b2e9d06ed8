#!/usr/bin/env python3
"""Verifies audit bundles of keymill with nothing but public keys.

Written from FORMAT.md beside it, in another language than keymill, so that the
two can be held against each other. It needs python3-cryptography and reads
bundles into memory. It does not make devices.xlsx, report.html, report.pdf and
README.txt again, and checks no time stamps and no witnesses.

    verify.py --key STATION.pem [--since CHECKPOINT].. BUNDLE..

Ends with 0 if all bundles are valid, with 8 if one is not, and says why."""
import argparse, base64, binascii, csv, datetime, hashlib, io, json, os, re, stat, sys
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

STATES = ["planned", "staged", "preauthorized", "released", "failed", "conflict", "undone"]
LOT_ACTIONS = {"lot-planned", "run-started", "verified", "run-ended", "lot-closed", "pruned", "exported", "log-continued", "log-restarted"}
DEVICE_ACTIONS = {"staged", "preauthorized", "released", "failed", "conflict", "key-destroyed", "rekeyed", "undone", "flashed", "rma", "key-adopted"}
BALANCE = ("rows released failed conflict undone open keys_generated keys_in_images keys_destroyed keys_staged "
           "auth_sets_made auth_sets_released auth_sets_left").split()
DEVICE = ("algorithm attempts attributes auth_set_id auth_status http_status identity key_staged keys_destroyed keys_generated output_bytes "
          "output_name output_sha256 public_key reason request_id row server_device_id spki_sha256 state station updated").split()
ALWAYS = {"attempts", "identity", "keys_destroyed", "keys_generated", "row", "state", "updated"}
SKEW = datetime.timedelta(minutes=5)


class Wrong(Exception):
    pass


def want(condition, *words):
    if not condition:
        raise Wrong(" ".join(str(w) for w in words))


# Bytes, JSON, base64 (2)

def unbase64(text):
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise Wrong("not base64")
    want(base64.b64encode(raw).decode() == text, "base64 in another form")
    return raw


def dump(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def load(line, numbers_only=True):
    """Reads canonical JSON."""
    try:
        text = line.decode("utf-8")
        value = json.loads(text)
        want(dump(value) == text, "JSON that is not canonical")
    except (ValueError, RecursionError):
        raise Wrong("not JSON")
    return value


def event(line):
    e = load(line)
    want(isinstance(e, dict), "no event")
    for name, v in e.items():
        number = name in ("attempt", "epoch", "http_status", "output_bytes", "requests", "row", "run", "seq", "unit")
        texts = name in ("facts", "device", "board", "predecessor", "successor")
        kind = int if number else dict if texts else str
        want(type(v) is kind and (not texts or all(type(x) is str for x in v.values())), "an event whose", name, "is of another type")
    return e


def escape(name):
    return "".join(chr(b) if chr(b).isascii() and (chr(b).isalnum() or b in b"-_" or b == 46 and i > 0) else "%%%02X" % b
                   for i, b in enumerate(name.encode()))


def when(text):
    want(type(text) is str and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", text), "not a time:", text)
    return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ")


def near(a, b):
    return abs(a - b) <= SKEW


# Trees (4)

def leaf(line):
    return hashlib.sha256(b"\0" + line).digest()


class Tree:
    """An RFC 6962 tree that grows to the right: perfect subtrees (level, hash)."""

    def __init__(self, name):
        self.name, self.size, self.nodes, self.wants, self.time = name, 0, [], [], None

    def want(self, size, root, who, at=None):
        self.wants.append([size, root, who, at])
        self.check()

    def check(self):
        for w in self.wants:
            if w[0] == self.size:
                want(w[1] == self.root(), self.name, "differs from what", w[2], "says of its first", w[0], "events")
                want(w[3] is None or self.time is None or self.time <= w[3] + SKEW, self.name, "has events later than", w[2])
                w[1] = None
        self.wants = [w for w in self.wants if w[1] is not None]

    def add(self, digest, level=0):
        want(self.size % (1 << level) == 0, self.name, "has a subtree in the wrong place")
        self.size += 1 << level
        while self.nodes and self.nodes[-1][0] == level:
            digest = hashlib.sha256(b"\1" + self.nodes.pop()[1] + digest).digest()
            level += 1
        self.nodes.append((level, digest))
        if any(w[0] == self.size for w in self.wants):
            self.check()

    def root(self):
        if not self.nodes:
            return base64.b64encode(hashlib.sha256(b"").digest()).decode()
        digest = self.nodes[-1][1]
        for _, left in reversed(self.nodes[:-1]):
            digest = hashlib.sha256(b"\1" + left + digest).digest()
        return base64.b64encode(digest).decode()

    def follows(self, e, head):
        schema = {"keymill.event/2"} | ({"keymill.event/1"} if head["kind"] == "legacy" else set())
        want(e.get("schema") in schema and e.get("station") == head["station"], "an event of another station or schema in", self.name)
        want(e.get("epoch", 1) == max(head.get("epoch", 1), 1) and e.get("seq") == self.size + 1, "event", e.get("seq"), "is out of place in", self.name)
        at = when(e.get("time"))
        want(self.time is None or at >= self.time, "time runs backwards at event", e.get("seq"), "of", self.name)
        self.time = at


# Signatures (3, 4)

def der(key):
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def key_id(key):
    return hashlib.sha256(der(key)).hexdigest()


def verify(key, message, sig):
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(sig, message)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            r, s = utils.decode_dss_signature(sig)
            want(utils.encode_dss_signature(r, s) == sig, "an ECDSA signature in another form")
            want(s <= ORDERS[key.curve.name] // 2, "an ECDSA signature with a high s")
            key.verify(sig, message, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048:
            key.verify(sig, message, padding.PKCS1v15(), hashes.SHA256())
        else:
            raise Wrong("a key that may not sign")
    except (InvalidSignature, ValueError):
        raise Wrong("a wrong signature")


ORDERS = {
    "secp256r1": 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551,
    "secp384r1": 0xffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973,
}


def note_id(origin, key):
    if isinstance(key, ed25519.Ed25519PublicKey):
        data = origin.encode() + b"\n\1" + key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        data = der(key)
    else:
        data = origin.encode() + b"\n\xffkeymill/rsa-pkcs1v15-sha256" + der(key)
    return hashlib.sha256(data).digest()[:4]


def checkpoint(note, keys, one=True):
    """Opens a checkpoint and returns origin, size, root and the key that signed it."""
    text, blank, signatures = note.partition(b"\n\n")
    lines = text.decode("utf-8", "replace").split("\n")
    want(blank and len(lines) == 3 and signatures.endswith(b"\n"), "not a checkpoint")
    origin, size, root = lines
    want(re.fullmatch(r"0|[1-9]\d{0,17}", size) and len(unbase64(root)) == 32, "not a checkpoint")
    signed = signatures.decode("utf-8", "replace")[:-1].split("\n")
    want(not one or len(signed) == 1, "a checkpoint with other signatures")
    for line in signed:
        match = re.fullmatch("— ([^ ]+) ([^ ]+)", line)
        want(match, "a line in a checkpoint that is no signature")
        sig = unbase64(match[2])
        for key in keys:
            if match[1] == origin and sig[:4] == note_id(origin, key):
                verify(key, text + b"\n", sig[4:])
                return origin, int(size), root, key
    raise Wrong("none of the given keys has signed the checkpoint of", origin)


# The bundle

class Bundle:
    def __init__(self, folder, keys, since):
        self.folder, self.keys, self.since, self.notes = folder, list(keys), since, []
        self.trees, self.named, self.frozen, self.kept, self.adopted = {}, {}, {}, {}, {}

    def read(self, name, limit):
        path = os.path.join(self.folder, *name.split("/"))
        try:
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as f:
                st = os.fstat(f.fileno())
                want(stat.S_ISREG(st.st_mode) and st.st_size <= limit, name, "is not a file of the right size")
                return f.read(limit + 1)
        except OSError as e:
            raise Wrong(name, "cannot be read:", e.strerror)

    def lines(self, name):
        data = self.files[name]
        want(not data or data.endswith(b"\n"), name, "is cut off")
        return data[:-1].split(b"\n") if data else []

    def verify(self):
        self.open_statement()
        self.check_files()
        self.check_logs()
        self.replay()
        self.compare_list()
        self.compare_tables()

    def open_statement(self):
        data = self.read("statement.dsse.json", 64 << 20)
        try:
            envelope = json.loads(data)
            payload, sig = envelope["payload"], envelope["signatures"][0]
            again = '{"payloadType":"application/vnd.in-toto+json","payload":"%s","signatures":[{"keyid":"%s","sig":"%s"}]}\n' % (
                payload, sig["keyid"], sig["sig"])
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            raise Wrong("the statement is no envelope")
        want(again.encode() == data, "the envelope is in another form")
        body, kind = unbase64(payload), b"application/vnd.in-toto+json"
        key = self.find_key(sig["keyid"])
        verify(key, b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(body), body), unbase64(sig["sig"]))
        self.st, self.key = load(body), key
        want(set(self.st) == {"_type", "subject", "predicateType", "predicate"} and self.st["_type"] == "https://in-toto.io/Statement/v1"
             and self.st["predicateType"] == "urn:keymill:attestation:lot:2", "a statement of another type")
        self.p = self.st["predicate"]
        self.subjects = {}
        for s in self.st["subject"]:
            want(s["name"] not in self.subjects and set(s["digest"]) == {"sha256"}, "a subject twice, or without its hash")
            self.subjects[s["name"]] = s["digest"]["sha256"]

    def find_key(self, wanted):
        """The key with this id, trusted itself or by rotations from one that is."""
        for _ in range(2):
            for key in self.keys:
                if key_id(key) == wanted:
                    return key
            self.follow_rotations()
        raise Wrong("signed by another key than those given")

    def follow_rotations(self):
        logs = os.path.join(self.folder, "log")
        for station in sorted(os.listdir(logs)) if os.path.isdir(logs) else []:
            try:
                data = self.read("log/%s/leaves.jsonl" % station, 64 << 20)
            except Wrong:
                continue
            for line in data.split(b"\n"):
                if line.startswith(b'{"action":"key-rotated"'):
                    old, new = self.rotation(event(line))
                    if key_id(old) in map(key_id, self.keys):
                        self.keys.append(new)

    def fact_key(self, e, name):
        raw = unbase64(e.get("facts", {}).get(name, ""))
        want(hashlib.sha256(raw).hexdigest() == e["facts"].get(name + "_sha256"), "a key that is not its own")
        try:
            return serialization.load_der_public_key(raw)
        except ValueError:
            raise Wrong("not a key")

    def rotation(self, e):
        old, new = self.fact_key(e, "old_spki"), self.fact_key(e, "new_spki")
        text = "keymill audit key rotation\n%s\n%s\n%s\n" % (e.get("station"), key_id(old), key_id(new))
        for name, key in (("signature_old", old), ("signature_new", new)):
            verify(key, text.encode(), unbase64(e["facts"].get(name, "")))
        return old, new

    # 1: files

    def folder_of(self, h):
        base, n = "log/" + escape(h["station"]), h.get("epoch", 1)
        part = {"station": "" if n == 1 else "/epoch", "lot": "/lot", "legacy": "/legacy"}[h["kind"]]
        return base + part + (".%d" % n if n > 1 else "")

    def check_files(self):
        allowed = {"README.txt", "SHA256SUMS", "devices.jsonl", "events.jsonl", "images.sha256", "devices.csv", "devices.xlsx", "report.html", "report.pdf"}
        later = set()
        for h in self.p["logs"]:
            want(h.get("kind") in ("station", "lot", "legacy"), "a log of another kind")
            names = {"station": ["leaves.jsonl", "checkpoint", "checkpoint.tsr"], "lot": ["checkpoint"], "legacy": ["nodes"]}[h["kind"]]
            allowed |= {self.folder_of(h) + "/" + n for n in names}
            if h["kind"] != "legacy":
                later.add(self.folder_of(h) + "/checkpoint.cosigned")
        named = {n[7:]: s for n, s in self.subjects.items() if n.startswith("bundle/")}
        want(set(named) == set(self.p["files"]) and set(named) <= allowed, "the statement names other files than it may")
        found = set()
        for root, folders, files in os.walk(self.folder):
            want(folders or files, "an empty folder")
            for name in folders + files:
                full = os.path.relpath(os.path.join(root, name), self.folder)
                mode = os.lstat(os.path.join(root, name)).st_mode
                want(stat.S_ISDIR(mode) and name in folders or stat.S_ISREG(mode), full, "is not a regular file")
                if name in files:
                    found.add(full)
        want(found - later == set(named) | {"statement.dsse.json"}, "files are missing, or were not there when the bundle was signed")
        self.files = {}
        for name, digest in named.items():
            size = self.p["files"][name]
            data = self.read(name, size)
            want(len(data) == size and hashlib.sha256(data).hexdigest() == digest, name, "was changed after it was signed")
            self.files[name] = data
        sums = "".join("%s  %s\n" % (s, n) for n, s in named.items() if n != "SHA256SUMS")
        want(self.files["SHA256SUMS"] == sums.encode(), "SHA256SUMS is another one than the statement's")

    # 4, 7: logs

    def check_logs(self):
        origins = set()
        for h in self.p["logs"]:
            n, station, lot = h.get("epoch", 0), escape(h["station"]), escape(self.p["lot"])
            origin = {"station": station + ("//%d" % n if n > 1 else ""), "lot": "%s/%s%s" % (station, lot, "/%d" % n if n > 1 else ""),
                      "legacy": "keymill/" + station}[h["kind"]]
            want(h["origin"] == origin and origin not in origins and (n < 1) == (h["kind"] == "legacy"), "a log that cannot be", h["origin"])
            events = h.get("events", 0)
            want(h["kind"] == "legacy" and 0 <= events <= h["size"] or events == (h["size"] if h["kind"] == "lot" else 0), "a log without its events")
            origins.add(origin)
            self.trees[origin] = Tree(origin)
            self.trees[origin].want(h["size"], h["root"], "the statement")
        want(sum(h.get("events", 0) for h in self.p["logs"]) == self.p["events"], "another number of events")
        want(any(h["kind"] == "station" and h["station"] == self.p["station"] for h in self.p["logs"]), "the exporting station's log is missing")
        for note in self.since:
            origin, size, root, _ = checkpoint(note, self.keys, one=False)
            want(origin in self.trees, "the earlier checkpoint's log is not in this bundle")
            self.trees[origin].want(size, root, "the earlier checkpoint")
        self.events = [event(line) for line in self.lines("events.jsonl")]
        for e in self.events:
            if e.get("action") == "lot-closed" and "heads" in e.get("facts", {}):
                for head in json.loads(e["facts"]["heads"]):
                    self.want(head, e)
            elif e.get("action") in ("log-continued", "log-restarted"):
                self.begins(e)
        stations = [(h, *self.station_log(h)) for h in self.p["logs"] if h["kind"] == "station"]
        for h, named, custody in stations:
            self.station_head(h, named, custody)
        for h in self.p["logs"]:
            if h["kind"] == "legacy":
                want(self.frozen.get(h["origin"]) == (h["size"], h["root"]), "no station log names the old log", h["origin"])
                self.notes.append("devices hidden in the old log cannot be excluded")
            elif h["kind"] == "lot" and h["origin"] not in self.kept:
                by = h["station"]
                if "signed_by" in h:
                    by = h["signed_by"]
                    want(self.adopted.get(h["origin"], ("", ""))[0] == by and self.adopted[h["origin"]][1], "nobody says why", by, "signed")
                self.checkpoint_of(h)
                want(self.named.get(h["origin"]) == (h["size"], h["root"]), "no station log names the head of", h["origin"])

    def want(self, head, e, at=None):
        want(head["origin"] in self.trees, "event", e.get("seq"), "names a log that the bundle does not have")
        self.trees[head["origin"]].want(head["size"], head["root"], "event %s" % e.get("seq"), at)

    def head(self, e):
        f = e.get("facts", {})
        want(re.fullmatch(r"0|[1-9]\d{0,17}", f.get("size", "")) and len(unbase64(f.get("root", ""))) == 32 and f.get("origin"), "no head of a log")
        return {"origin": f["origin"], "size": int(f["size"]), "root": f["root"]}

    def begins(self, e):
        head, f = self.head(e), e["facts"]
        if e["action"] == "log-restarted":
            if "kept_size" in f:
                head = dict(head, size=int(f["kept_size"]), root=f["kept_root"])
                self.notes.append("events of %s were lost" % f["origin"])
            self.kept[head["origin"]] = (head["size"], head["root"])
        self.want(head, e)

    def checkpoint_of(self, h):
        origin, size, root, key = checkpoint(self.files.get(self.folder_of(h) + "/checkpoint", b""), self.keys)
        want((origin, size, root) == (h["origin"], h["size"], h["root"]), "a checkpoint of another head than", h["origin"])
        return key

    def station_log(self, h):
        tree, named, custody = self.trees[h["origin"]], None, {}
        for line in self.lines(self.folder_of(h) + "/leaves.jsonl"):
            e = event(line)
            f, action = e.get("facts", {}), e.get("action")
            tree.follows(e, h)
            want(not {"lot", "row", "device", "from", "to"} & set(e), "an event of a lot in a station log")
            if action == "audit-key":
                named, custody = key_id(self.fact_key(e, "spki")), f
            elif action == "key-rotated":
                old, new = self.rotation(e)
                want(named is None or named == key_id(old), "a rotation of another key")
                named, custody = key_id(new), f
            elif action == "log-frozen":
                head = self.head(e)
                self.frozen[head["origin"]] = (head["size"], head["root"])
                if head["origin"] in self.trees:
                    self.want(head, e, tree.time)
            elif action == "log-restarted":
                self.begins(e)
            elif action == "lot-head":
                head, station, lot = self.head(e), f.get("for", h["station"]), f.get("lot", "")
                want(lot and re.fullmatch(re.escape(escape(station) + "/" + escape(lot)) + r"(/([2-9]|[1-9]\d+))?", head["origin"]), "a head of another lot")
                if "for" in f:
                    self.adopted[head["origin"]] = (h["station"], f.get("reason", ""))
                if lot == self.p["lot"]:
                    want(self.named.get(head["origin"], (0,))[0] <= head["size"], "a log that shrank")
                    self.named[head["origin"]] = (head["size"], head["root"])
                    self.want(head, e, tree.time)
            tree.add(leaf(line))
        lost = [w for w in tree.wants if not (w[2] == "the earlier checkpoint" and self.later_epoch(h))]
        want(tree.size == h["size"] and not lost, h["origin"], "was rolled back, or lacks leaves")
        return named, custody

    def later_epoch(self, h):
        return any(o["kind"] == h["kind"] and o["station"] == h["station"] and o.get("epoch", 0) > h.get("epoch", 0) for o in self.p["logs"])

    def station_head(self, h, named, custody):
        if h["origin"] in self.kept and self.folder_of(h) + "/checkpoint" not in self.files:
            want(self.kept[h["origin"]] == (h["size"], h["root"]), "an epoch that is not what was kept of it")
            return
        want(key_id(self.checkpoint_of(h)) == named, h["origin"], "is signed by another key than it names")
        if h["station"] == self.p["station"]:
            said = {n: custody[m] for n, m in (("kind", "custody"), ("token", "token"), ("module", "module"),
                                               ("extractable", "extractable"), ("certificate", "certificate")) if m in custody}
            want(said == self.p["custody"], "another custody than the station log's")

    # 5, 7: events

    def replay(self):
        lines, start, parts = self.lines("events.jsonl"), 0, []
        self.devices, self.planned, self.closed, self.changed, self.runs = {}, None, None, False, set()
        counted = [h for h in self.p["logs"] if h["kind"] != "station" and h.get("events")]
        for h in self.p["logs"]:
            if h["kind"] == "station":
                continue
            tree, n = self.trees[h["origin"]], h.get("events", 0)
            nodes = [x.decode().split(" ") for x in self.lines(self.folder_of(h) + "/nodes")] if h["kind"] == "legacy" else []
            for line, e in zip(lines[start:start + n], self.events[start:start + n]):
                while nodes and tree.size < e.get("seq", 0) - 1:
                    self.subtree(tree, nodes.pop(0))
                tree.follows(e, h)
                want(e.get("lot") == self.p["lot"], "an event of another lot")
                tree.add(leaf(line))
            for node in nodes:
                self.subtree(tree, node)
            want(tree.size == h["size"] and not [w for w in tree.wants if w[2] != "the earlier checkpoint" or not (self.later_epoch(h) or h["kind"] == "legacy" and w[0] <= tree.size)],
                 h["origin"], "was rolled back, or lacks events")
            parts.append([h, self.events[start:start + n]])
            start += n
        want(start == len(lines), "events of no log")
        self.alone = len(counted) == 1
        while any(events for _, events in parts):
            ready = sorted((events[0]["time"], i) for i, (h, events) in enumerate(parts) if events)
            i = next((i for _, i in ready if self.applies(parts[i][1][0])), ready[0][1])
            self.take(parts[i][1].pop(0), parts[i][0])
        self.events = None

    def subtree(self, tree, node):
        want(len(node) == 3 and re.fullmatch(r"0|[1-9]\d*", node[0]) and re.fullmatch(r"\d|[1-5]\d|6[0-2]", node[1]) and int(node[0]) == tree.size, "a subtree in the wrong place")
        digest = unbase64(node[2])
        want(len(digest) == 32, "not a hash")
        tree.add(digest, int(node[1]))

    def applies(self, e):
        return "row" not in e or "to" not in e or self.devices.get(e["row"], {"state": "planned"})["state"] == e.get("from")

    def take(self, e, head):
        action, of_device = e.get("action", ""), bool({"row", "device", "from", "to", "unit"} & set(e))
        device_action = action in DEVICE_ACTIONS or action.startswith("unit-")
        want(not of_device or "row" in e and "device" in e and action not in LOT_ACTIONS, "an event of a device without its row, or of a lot with one")
        want(of_device or not device_action, "an event without its device")
        want(self.planned or not self.alone or action in ("lot-planned", "log-continued", "log-restarted"), "an event before the lot was planned")
        if "run" in e and head["kind"] == "lot" and head["epoch"] == 1 and not any(h["kind"] == "legacy" for h in self.p["logs"]):
            want((e["station"], e["run"]) in self.runs, "an event of a run that was not started")
        if of_device and not device_action or not of_device and action not in LOT_ACTIONS:
            want(not {"from", "to", "spki_sha256", "output_sha256"} & set(e), "an event of an unknown action")
        if action == "lot-planned":
            want(self.planned is None and (head["kind"] == "legacy" or e["seq"] == 1 and head["epoch"] == 1), "planned twice, or late")
            self.planned, f = e, e.get("facts", {})
            want(f.get("devices") == str(self.p["devices"]) and f.get("identity") == ",".join(self.p["columns"]["identity"]), "planned otherwise than the statement says")
            self.same(e)
        elif action == "run-started":
            self.runs.add((e["station"], e["seq"]))
            self.same(e)
        elif action == "run-ended" and self.alone:
            for state, n in self.counts().items():
                want(e.get("facts", {}).get(state, str(n)) == str(n), "a run's end counts otherwise than its events")
        elif action == "lot-closed":
            self.closed, self.changed = e, False
            b = self.balance_of(e)
            want(b["rows"] == self.p["devices"], "closed with another number of devices")
            if self.alone:
                want(all(b[s] == n for s, n in self.counts().items() if s in b), "closed with other counts than its events make")
        if of_device:
            self.device(e)

    def counts(self):
        counts = dict.fromkeys(STATES, 0)
        for d in self.devices.values():
            counts[d["state"]] += 1
        counts["planned"] += self.p["devices"] - len(self.devices)
        return counts

    def balance_of(self, e):
        text = e.get("facts", {}).get("balance", "")
        try:
            pairs = json.loads(text, object_pairs_hook=lambda p: p)
            want([n for n, _ in pairs] == BALANCE and all(type(v) is int for _, v in pairs), "a balance in another form")
        except (ValueError, TypeError):
            raise Wrong("no balance")
        want(json.dumps(dict(pairs), separators=(",", ":")) == text, "a balance in another form")
        return dict(pairs)

    def same(self, e):
        said = {"manifest_sha256": self.subjects.get("manifest", ""), "golden_sha256": self.subjects.get("golden", ""),
                "inject_sha256": self.p.get("injection_sha256", ""), "format": self.p.get("format", "")}
        if e["action"] == "run-started":
            said.update((n, self.p.get(n, "")) for n in ("server", "keys", "algorithm"))
        for name, value in e.get("facts", {}).items():
            want(said.get(name, value) == value, e["action"], "says another", name, "than the statement")

    def device(self, e):
        d = self.devices.get(e["row"])
        if d is None:
            d = self.devices[e["row"]] = {"state": "planned", "identity": e["device"], "spki": "", "staged": 0, "destroyed": 0, "serial": None,
                                          "preauthorized": False, "output": None, "auth": ("", "", "", 0), "said": None, "updated": None, "unit": 0}
        want(d["identity"] == e["device"], "row", e["row"], "was another device before")
        if "serial" in e:
            want(d["serial"] in (None, e["serial"]), "row", e["row"], "had another serial before")
            d["serial"] = e["serial"]
        self.unit(d, e)
        if "to" not in e:
            return
        action, spki = e["action"], e.get("spki_sha256", "")
        want(e.get("from") == d["state"] and e["to"] in STATES, "row", e["row"], "lacks an event")
        self.changed, d["state"], d["updated"] = True, e["to"], when(e["time"])
        reason = e.get("reason", "").replace("\0", "\ufffd") if e["to"] in ("failed", "conflict") else ""
        d["said"] = None if action == "key-destroyed" else (e["station"], e.get("attempt", 0), reason)
        if action == "staged":
            d["staged"] += 1
            d["preauthorized"], d["spki"] = False, spki
            want(spki == "" or re.fullmatch("[0-9a-f]{64}", spki), "not a hash")
            return
        if action == "key-destroyed":
            d["destroyed"] += 1
            return
        if action == "preauthorized":
            d["preauthorized"] = True
            d["auth"] = (e.get("server_device_id", ""), e.get("auth_set_id", ""), e.get("request_id", ""), e.get("http_status", 0))
        elif action == "released":
            want(d["preauthorized"] and d["staged"], "row", e["row"], "was released too early")
            want(e.get("read_back") == "match" or self.p.get("keys") == "token", "row", e["row"], "was not read back")
            d["output"] = (e.get("output_name", ""), e.get("output_bytes", 0), e.get("output_sha256", ""))
        want(spki in ("", d["spki"]), "row", e["row"], "has another key than was staged")

    def unit(self, d, e):
        if e["action"] in ("unit-reserved", "unit-restored"):
            want(not d["unit"] and e.get("unit"), "row", e["row"], "has two live units: a clone")
            d["unit"] = e["unit"]
        elif e["action"] in ("unit-failed", "unit-scrapped") and e.get("unit") == d["unit"]:
            d["unit"] = 0

    # 6, 7: the list

    def compare_list(self):
        p, roster, seen, last = self.p, hashlib.sha256(), {}, 0
        want(self.planned, "the lot was not planned")
        want(near(when(p["planned"]), when(self.planned["time"])) and ("closed" in p) == (self.closed is not None), "planned or closed at another time")
        if self.closed:
            want(near(when(p["closed"]), when(self.closed["time"])), "closed at another time")
            want(self.changed or self.balance_of(self.closed) == p["balance"], "another balance than at the close")
        unique = self.planned["facts"].get("unique", "serial").split(",")
        balance, totals = dict.fromkeys(BALANCE, 0), {"lot": p["lot"], "devices": 0, **dict.fromkeys(STATES, 0)}
        keys = {"generated": 0, "released": 0, "destroyed": 0}
        self.list = []
        for line in self.lines("devices.jsonl"):
            d = self.list_line(line)
            self.list.append(d)
            row, state, spki = d["row"], d["state"], d.get("spki_sha256", "")
            want(row > last and state in STATES, "row", row, "is out of order")
            last, attributes = row, d.get("attributes", {})
            roster.update(("%d\t%s\t%s\n" % (row, dump(d["identity"]), dump(attributes))).encode())
            want(all(attributes.get(n, v) == v for n, v in d["identity"].items()), "row", row, "has two values of one name")
            public = unbase64(d.get("public_key", ""))
            want((hashlib.sha256(public).hexdigest() if public else "") == spki, "row", row, "has a fingerprint of another key")
            t = self.devices.get(row)
            if t is None:
                want(state == "planned", "row", row, "has no events")
            else:
                self.compare_device(d, t, spki)
            for what in [("identity", dump(d["identity"]))] + [("key", spki)] * bool(spki) + [(n, attributes[n]) for n in unique if attributes.get(n)]:
                want(what not in seen, "rows", seen.get(what), "and", row, "have the same", what[0])
                seen[what] = row
            totals["devices"] += 1
            totals[state] += 1
            keys["generated"] += d["keys_generated"]
            keys["destroyed"] += d["keys_destroyed"]
            keys["released"] += state == "released" and bool(public)
            self.add(balance, d)
        want(not set(self.devices) - {d["row"] for d in self.list}, "a device has events, but is not listed")
        want(totals["devices"] == p["devices"], "another number of devices than planned")
        sum_ = self.planned["facts"].get("roster_sha256")
        want(sum_ is None or sum_ == roster.hexdigest(), "other devices or attributes than planned")
        if not totals["undone"]:
            del totals["undone"]
        want(dict(totals, keys=keys) == p["totals"] and balance == p["balance"], "other totals than the list's")
        ok = (balance["rows"] == p["devices"] and not balance["open"]
              and balance["keys_in_images"] + balance["keys_destroyed"] + balance["keys_staged"] == balance["keys_generated"]
              and balance["keys_generated"] - balance["keys_destroyed"] <= p["devices"]
              and balance["auth_sets_released"] + balance["auth_sets_left"] == balance["auth_sets_made"])
        want(ok == p["reconciles"] and ok == (p["imbalances"] == []), "says otherwise whether the lot reconciles")

    def list_line(self, line):
        try:
            text = line.decode("utf-8")
            pairs = json.loads(text, object_pairs_hook=lambda p: p)
            d = {n: dict(v) if n in ("attributes", "identity") else v for n, v in pairs}
            order = [(n, v) for n, v in d.items()]
        except (ValueError, TypeError, RecursionError):
            raise Wrong("a device that is not JSON")
        want([n for n, _ in order] == [n for n in DEVICE if n in d] and ALWAYS <= set(d), "a device in another form")
        parts = [json.dumps(n) + ":" + dump(v) for n, v in order]
        again = ("{" + ",".join(parts) + "}").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
        want(again == text and all(v or n in ALWAYS for n, v in order), "a device in another form")
        for n, v in order:
            kind = {"attributes": dict, "identity": dict, "key_staged": bool}.get(n, int if n in ("attempts", "http_status", "keys_destroyed", "keys_generated", "output_bytes", "row") else str)
            want(type(v) is kind and (kind is not dict or all(type(x) is str for x in v.values())), "a device whose", n, "is of another type")
        want(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d*[1-9])?Z", d["updated"]), "not a time")
        return d

    def compare_device(self, d, t, spki):
        row = d["row"]
        want(t["identity"] == d["identity"] and t["state"] == d["state"], "row", row, "is listed otherwise than its events say")
        want(not spki or t["spki"] == spki, "row", row, "is listed with another key than its events say")
        want(t["staged"] <= d["keys_generated"] <= t["staged"] + t["destroyed"] and d["keys_destroyed"] >= t["destroyed"], "row", row, "has other keys than its events say")
        if d["state"] == "released":
            want(t["output"] == (d.get("output_name", ""), d.get("output_bytes", 0), d.get("output_sha256", "")), "row", row, "is listed with another image")
        if d["state"] in ("released", "preauthorized"):
            want(t["auth"] == (d.get("server_device_id", ""), d.get("auth_set_id", ""), d.get("request_id", ""), d.get("http_status", 0)), "row", row, "is listed with another answer of the server")
        want(t["serial"] in (None, d.get("attributes", {}).get("serial", "")), "row", row, "is listed with another serial")
        want(t["said"] in (None, (d.get("station", ""), d["attempts"], d.get("reason", ""))), "row", row, "is listed with another station, attempt or reason")
        seconds, _, fraction = d["updated"][:-1].partition(".")
        want(t["updated"] is None or near(when(seconds + "." + (fraction + "000000")[:6] + "Z"), t["updated"]), "row", row, "is listed as of another time")

    def add(self, b, d):
        state = d["state"]
        b["rows"] += 1
        b["keys_generated"] += d["keys_generated"]
        b["keys_destroyed"] += d["keys_destroyed"]
        b["keys_staged"] += d.get("key_staged", False)
        b["keys_in_images"] += state == "released"
        b[state if state in ("released", "failed", "conflict", "undone") else "open"] += 1
        if "auth_status" in d and state != "undone":
            b["auth_sets_made"] += 1
            b["auth_sets_released"] += state == "released"
            b["auth_sets_left"] += state in ("failed", "conflict")

    def compare_tables(self):
        def name(n):
            mark = "\\" if re.search(r"[\\\n\r]", n) else ""
            return mark, n.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        images = ""
        for d in self.list:
            if d["state"] == "released" and "output_sha256" in d and "output_name" in d:
                mark, n = name(d["output_name"])
                images += "%s%s  %s\n" % (mark, d["output_sha256"], n)
        want(self.files.get("images.sha256") == images.encode(), "images.sha256 is another one than the list's")
        if "devices.csv" in self.files:
            rows = list(csv.reader(io.StringIO(self.files["devices.csv"].decode("utf-8"), newline="")))
            want(len(rows) == len(self.list) + 1, "devices.csv has another number of rows")
            for row, d in zip(rows[1:], self.list):
                cells = dict(zip(rows[0], row))
                for column, member in (("row", "row"), ("state", "state"), ("reason", "reason"), ("algorithm", "algorithm"), ("spki_sha256", "spki_sha256"),
                                       ("public_key", "public_key"), ("output_sha256", "output_sha256"), ("output_name", "output_name"), ("attempts", "attempts")):
                    want(cells.get(column, "").lstrip("'") == str(d.get(member, "")).lstrip("'"), "devices.csv shows another", column, "in row", d["row"])
                for n in self.p["columns"]["identity"] + self.p["columns"]["attributes"]:
                    value = d["identity"].get(n, d.get("attributes", {}).get(n, ""))
                    shown = cells.get(n, cells.get("attr." + n, cells.get("'" + n)))
                    want(shown in (value, "'" + value), "devices.csv shows another", n, "in row", d["row"])
        if {"devices.xlsx", "report.html", "report.pdf"} & set(self.files):
            self.notes.append("workbook and pages were not compared")


def read_key(path):
    with open(path, "rb") as f:
        return serialization.load_pem_public_key(f.read())


def main():
    parser = argparse.ArgumentParser(description="Verifies audit bundles of keymill.")
    parser.add_argument("--key", action="append", required=True, help="public key of a station, PEM, from outside of the bundle")
    parser.add_argument("--since", action="append", default=[], help="an earlier checkpoint, which the logs must still contain")
    parser.add_argument("bundle", nargs="+")
    args = parser.parse_args()
    keys, since, code = [read_key(k) for k in args.key], [open(s, "rb").read() for s in args.since], 0
    for folder in args.bundle:
        bundle = Bundle(folder, keys, since)
        try:
            bundle.verify()
            print("%s: valid%s" % (ascii(folder), "".join("; note: " + ascii(n) for n in bundle.notes)))
        except Wrong as why:
            print("%s: NOT valid: %s" % (ascii(folder), ascii(" ".join(map(str, why.args)))))
            code = 8
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as why:
            print("%s: NOT valid: not in the form of FORMAT.md (%s)" % (ascii(folder), ascii(repr(why))))
            code = 8
    return code


if __name__ == "__main__":
    sys.exit(main())
