BEGIN TRANSACTION;
CREATE TABLE goose_db_version (
		id INTEGER PRIMARY KEY AUTOINCREMENT,
		version_id INTEGER NOT NULL,
		is_applied INTEGER NOT NULL,
		tstamp TIMESTAMP DEFAULT (datetime('now'))
	);
INSERT INTO goose_db_version VALUES(1,0,1,'2026-11-30 10:18:05');
INSERT INTO goose_db_version VALUES(2,1,1,'2026-11-30 10:18:05');
INSERT INTO goose_db_version VALUES(3,2,1,'2026-11-30 10:18:05');
INSERT INTO goose_db_version VALUES(4,3,1,'2026-11-30 10:18:05');
CREATE TABLE lots (
    id              INTEGER PRIMARY KEY,
    name            TEXT    NOT NULL UNIQUE,
    manifest_path   TEXT    NOT NULL,
    manifest_sha256 TEXT    NOT NULL,
    devices         INTEGER NOT NULL,
    golden_path     TEXT    NOT NULL,
    golden_sha256   TEXT    NOT NULL,
    golden_bytes    INTEGER NOT NULL,
    inject_sha256   TEXT    NOT NULL,
    format          TEXT    NOT NULL,
    keys            TEXT    NOT NULL,
    algorithm       TEXT    NOT NULL,
    server          TEXT    NOT NULL,
    out             TEXT    NOT NULL,
    station         TEXT    NOT NULL,
    created         INTEGER NOT NULL,
    closed          INTEGER NOT NULL -- 0 while the lot is open
);
INSERT INTO lots VALUES(1,'demo','/lots/manifest.csv','50a75616a4336f6aa5a59ea3a5d2beb10126384e27c00e24a3966d69c0aa4cd2',3,'/lots/golden.sdimg','e2d48bfb1e76504af63ae3a81dceefdd2017df4ee1f447a648d8718c45fbe689',67108864,'d109133673dbe1335c958f2192df20062eda8cf008f9384df7fba10282719beb','raw','software','ed25519','https://127.0.0.1:38541','/lots/out/demo','vm',1796033885000000,1796033886249631);
INSERT INTO lots VALUES(2,'flashed','fl.csv','796eab196b3df800566bb822a23f2b99d61bcdfc3ae62913c0562f2d4a25a754',3,'/lots/golden.sdimg','e2d48bfb1e76504af63ae3a81dceefdd2017df4ee1f447a648d8718c45fbe689',67108864,'d109133673dbe1335c958f2192df20062eda8cf008f9384df7fba10282719beb','pack','software','ed25519','https://127.0.0.1:35625','/lots/out/flashed','vm',1796033901000000,1796033901602604);
INSERT INTO lots VALUES(3,'open','op.csv','9bf04f6c70fe131a4b26d99337a6da0b131ce16f03677070985ca6b44219b183',2,'/lots/golden.sdimg','e2d48bfb1e76504af63ae3a81dceefdd2017df4ee1f447a648d8718c45fbe689',67108864,'d109133673dbe1335c958f2192df20062eda8cf008f9384df7fba10282719beb','raw','software','ed25519','https://127.0.0.1:40215','/lots/out/open','vm',1796033921000000,0);
CREATE TABLE devices (
    id       INTEGER PRIMARY KEY,
    sum      BLOB NOT NULL, -- SHA-256 of the identity's canonical JSON
    identity TEXT NOT NULL, -- JSON object in the configured order
    attrs    TEXT NOT NULL, -- JSON object in the manifest's order
    earlier  INTEGER        -- the device of another lot that this one took over
);
INSERT INTO devices VALUES(4294967298,X'eaed8a39f34d6ecdeea0ab62f556388d282ba695755e0d97fa0a2fd67bb6af1a','{"mac":"ac:de:48:ad:d8:0d"}','{"mac":"ac:de:48:ad:d8:0d","serial":"SN6524064","part_no":"KM-100-A","batch":"1"}',NULL);
INSERT INTO devices VALUES(4294967299,X'096077c31852cebb29e41e814fbe3c2654fc3710b710aba69f427149b224e4db','{"mac":"ac:de:48:e1:3c:38"}','{"mac":"ac:de:48:e1:3c:38","serial":"SN6524065","part_no":"KM-100-B","batch":"1"}',NULL);
INSERT INTO devices VALUES(4294967300,X'6b223068e52591016347dc6b6cd06a90012ad62974bc41f3cf501ae1e91b1a72','{"mac":"ac:de:48:14:a0:63"}','{"mac":"ac:de:48:14:a0:63","serial":"SN6524066","part_no":"KM-100-C","batch":"1"}',NULL);
INSERT INTO devices VALUES(8589934594,X'7e4bf2f7a722ace3cd44053820500c79dfa978d3738efffdcb4904e63e9277c8','{"mac":"02:aa:00:00:00:01"}','{"mac":"02:aa:00:00:00:01","serial":"FL001"}',NULL);
INSERT INTO devices VALUES(8589934595,X'295fb77fcc4a698bd78609966e2ddad7ece7e4ca35ee29233bd23bf3a92fc916','{"mac":"02:aa:00:00:00:02"}','{"mac":"02:aa:00:00:00:02","serial":"FL002"}',NULL);
INSERT INTO devices VALUES(8589934596,X'91e0693b25c8b0f5742e51eefcca5a15c7fc59e87ac6bd1f0ec1ec9ae5bb42fa','{"mac":"02:aa:00:00:00:03"}','{"mac":"02:aa:00:00:00:03","serial":"FL003"}',NULL);
INSERT INTO devices VALUES(12884901890,X'663b5a2323b5708b37be28f5941b4161912b293fa6599c455b4ab6b76a8eda97','{"mac":"02:bb:00:00:00:01"}','{"mac":"02:bb:00:00:00:01","serial":"OP001"}',NULL);
INSERT INTO devices VALUES(12884901891,X'bd1ed108a5edcd378f777459bf03187f9f8f0031f6b6af01322cbc38ac87a5c0','{"mac":"02:bb:00:00:00:02"}','{"mac":"02:bb:00:00:00:02","serial":"OP002"}',NULL);
CREATE TABLE records (
    id             INTEGER PRIMARY KEY, -- devices.id
    state          TEXT    NOT NULL,
    keys_generated INTEGER NOT NULL DEFAULT 0,
    keys_destroyed INTEGER NOT NULL DEFAULT 0,
    superseded     INTEGER NOT NULL DEFAULT 0, -- lots.id of the lot that took the device over
    lease          TEXT    NOT NULL DEFAULT '', -- whose the device is to work on; '' is anybody's
    lease_until    INTEGER NOT NULL DEFAULT 0,
    updated        INTEGER NOT NULL,
    attempts       INTEGER NOT NULL DEFAULT 0,
    station        TEXT    NOT NULL DEFAULT '',
    pack_offset    INTEGER NOT NULL DEFAULT 0,
    pack_length    INTEGER NOT NULL DEFAULT 0, -- 0 when there is no overlay
    algorithm      TEXT    NOT NULL DEFAULT '',
    public_key     BLOB,
    replaces       BLOB,
    reason         TEXT    NOT NULL DEFAULT '',
    auth_device    TEXT    NOT NULL DEFAULT '',
    auth_set       TEXT    NOT NULL DEFAULT '',
    auth_status    TEXT    NOT NULL DEFAULT '',
    auth_request   TEXT    NOT NULL DEFAULT '',
    auth_http      INTEGER NOT NULL DEFAULT 0,
    auth_attempts  INTEGER NOT NULL DEFAULT 0,
    out_name       TEXT    NOT NULL DEFAULT '',
    out_bytes      INTEGER NOT NULL DEFAULT 0,
    out_sha256     TEXT    NOT NULL DEFAULT ''
);
INSERT INTO records VALUES(4294967298,'released',1,0,0,'',0,1796033886233625,1,'vm',10180,248,'ed25519',X'302a300506032b65700321000a2555c5ded5884363c5f62d6132e3da9da459fe43db24a0391eb1f0f2b07271',NULL,'','c2a6eebd-f397-4ad0-a8df-00000000002a','','preauthorized','329a3086-1721-4e7c-a840-3a81db205359',201,1,'ac-de-48-ad-d8-0d.sdimg',67108864,'e6addbfd7acb881ceec81e1cea9f7fd65b5ed7f21b88b429e0ad6c16378c2ff9');
INSERT INTO records VALUES(4294967299,'released',1,0,0,'',0,1796033886221540,1,'vm',10428,248,'ed25519',X'302a300506032b65700321007427c379832f8c14573b92b62145c2972a7ffffbc87bb35b2caea3f6709b0830',NULL,'','f7f42eda-e4c2-41c1-817d-000000000009','','preauthorized','f26b338e-de6a-4aac-8a6f-d633d25e73ad',201,1,'ac-de-48-e1-3c-38.sdimg',67108864,'844a889fe134c8068864290c9486f66d66f8f116089c315ef97b534839ff467b');
INSERT INTO records VALUES(4294967300,'released',1,0,0,'',0,1796033886233625,1,'vm',10676,248,'ed25519',X'302a300506032b65700321006a0b80c9125c3ee6e9f54fa3098f86af90ea09a561e006bbcfa5e249b8cd0208',NULL,'','f0186f51-f049-41ff-87d2-00000000002b','','preauthorized','b2d361f7-3556-4d22-b020-a174f63c180f',201,1,'ac-de-48-14-a0-63.sdimg',67108864,'c6c1e795895c7f6096716d6b8769831e976ec04638608baeedcdce5784679be0');
INSERT INTO records VALUES(8589934594,'released',1,0,0,'',0,1796033901533773,1,'vm',10180,245,'ed25519',X'302a300506032b6570032100afa5a4196f66220016296b17d43fc1fee40fb737395a115f98c707d25122bb6f',NULL,'','f6e06b0e-c1da-4be0-9a3c-00000000003e','','preauthorized','6c6cf6a7-5228-4432-af26-876d353ef9ed',201,1,'',245,'');
INSERT INTO records VALUES(8589934595,'released',2,1,0,'',0,1796033902256173,2,'vm',10915,245,'ed25519',X'302a300506032b6570032100ec42cf32d58db0383664aaa5aaba8d9c98651a36ab19b8d0dcfede7840024106',X'302a300506032b657003210043f02660522733e8458686d808b0573a7592fbaf8f83abee1c65d357eba3fded','','d56b7214-d334-4b6e-abdd-000000000069','','preauthorized','625b597e-622b-4c19-a711-c87e4ade402a',201,5,'',245,'');
INSERT INTO records VALUES(8589934596,'released',1,0,0,'',0,1796033901533773,1,'vm',10425,245,'ed25519',X'302a300506032b65700321001b2965df61eb1e5da65f508a4a39b1aca1a85f8c1938a3bf15808a8e3a529891',NULL,'','012c3d7e-4aff-4dc7-bdc7-000000000011','','preauthorized','4b5ae877-a9b2-4dfb-8d89-6325bb6193e9',201,1,'',245,'');
INSERT INTO records VALUES(12884901890,'staged',1,0,0,'',0,1796033929747291,1,'vm',10180,245,'ed25519',X'302a300506032b657003210088df52bc162fa91fd77fe571829cb16e9eae990bfd0af989d69605e5c00b554c',NULL,'','','','','',0,0,'',0,'');
INSERT INTO records VALUES(12884901891,'staged',1,0,0,'',0,1796033929749347,1,'vm',10425,245,'ed25519',X'302a300506032b6570032100d014c6a70311bd7a74a1092aa4dc214e673b8c21c97de7568bbe117d202872a8',NULL,'','','','','',0,0,'',0,'');
CREATE TABLE identities (
    sum BLOB    NOT NULL PRIMARY KEY,
    id  INTEGER NOT NULL -- devices.id
) WITHOUT ROWID;
INSERT INTO identities VALUES(X'096077c31852cebb29e41e814fbe3c2654fc3710b710aba69f427149b224e4db',4294967299);
INSERT INTO identities VALUES(X'295fb77fcc4a698bd78609966e2ddad7ece7e4ca35ee29233bd23bf3a92fc916',8589934595);
INSERT INTO identities VALUES(X'663b5a2323b5708b37be28f5941b4161912b293fa6599c455b4ab6b76a8eda97',12884901890);
INSERT INTO identities VALUES(X'6b223068e52591016347dc6b6cd06a90012ad62974bc41f3cf501ae1e91b1a72',4294967300);
INSERT INTO identities VALUES(X'7e4bf2f7a722ace3cd44053820500c79dfa978d3738efffdcb4904e63e9277c8',8589934594);
INSERT INTO identities VALUES(X'91e0693b25c8b0f5742e51eefcca5a15c7fc59e87ac6bd1f0ec1ec9ae5bb42fa',8589934596);
INSERT INTO identities VALUES(X'bd1ed108a5edcd378f777459bf03187f9f8f0031f6b6af01322cbc38ac87a5c0',12884901891);
INSERT INTO identities VALUES(X'eaed8a39f34d6ecdeea0ab62f556388d282ba695755e0d97fa0a2fd67bb6af1a',4294967298);
CREATE TABLE names (
    value TEXT    NOT NULL,
    id    INTEGER NOT NULL, -- devices.id
    PRIMARY KEY (value, id)
) WITHOUT ROWID;
INSERT INTO names VALUES('02:aa:00:00:00:01',8589934594);
INSERT INTO names VALUES('02:aa:00:00:00:02',8589934595);
INSERT INTO names VALUES('02:aa:00:00:00:03',8589934596);
INSERT INTO names VALUES('02:bb:00:00:00:01',12884901890);
INSERT INTO names VALUES('02:bb:00:00:00:02',12884901891);
INSERT INTO names VALUES('FL001',8589934594);
INSERT INTO names VALUES('FL002',8589934595);
INSERT INTO names VALUES('FL003',8589934596);
INSERT INTO names VALUES('OP001',12884901890);
INSERT INTO names VALUES('OP002',12884901891);
INSERT INTO names VALUES('SN6524064',4294967298);
INSERT INTO names VALUES('SN6524065',4294967299);
INSERT INTO names VALUES('SN6524066',4294967300);
INSERT INTO names VALUES('ac:de:48:14:a0:63',4294967300);
INSERT INTO names VALUES('ac:de:48:ad:d8:0d',4294967298);
INSERT INTO names VALUES('ac:de:48:e1:3c:38',4294967299);
CREATE TABLE stations (
    id   INTEGER PRIMARY KEY,
    name TEXT    NOT NULL UNIQUE,
    seq  INTEGER NOT NULL, -- of the last event
    last INTEGER NOT NULL  -- time of the last event
);
INSERT INTO stations VALUES(1,'vm',44,1796033929749347);
CREATE TABLE events (
    id        INTEGER PRIMARY KEY,
    lot       INTEGER NOT NULL, -- lots.id, 0 for events of no lot
    canonical TEXT    NOT NULL, -- RFC 8785 JSON
    leaf      BLOB    NOT NULL  -- RFC 6962 leaf hash of canonical
);
INSERT INTO events VALUES(1099511627777,1,'{"action":"lot-planned","facts":{"devices":"3","format":"raw","golden_sha256":"e2d48bfb1e76504af63ae3a81dceefdd2017df4ee1f447a648d8718c45fbe689","identity":"mac","inject_sha256":"d109133673dbe1335c958f2192df20062eda8cf008f9384df7fba10282719beb","manifest_sha256":"50a75616a4336f6aa5a59ea3a5d2beb10126384e27c00e24a3966d69c0aa4cd2"},"lot":"demo","schema":"keymill.event/1","seq":1,"station":"vm","time":"2026-11-30T10:18:05.901431Z"}',X'55077ba6b00e72dba2976f73a746ed1d5b32df853e9d3e56b4a895fd7ab0282f');
INSERT INTO events VALUES(1099511627778,1,'{"action":"run-started","facts":{"algorithm":"ed25519","config_sha256":"0de59127a046cbb92736acb4ebe1f790c5ef279660dc9884752f10ff0d555b0c","format":"raw","golden_sha256":"e2d48bfb1e76504af63ae3a81dceefdd2017df4ee1f447a648d8718c45fbe689","inject":"[{\"path\":\"/data/mender/mender-agent.pem\",\"content\":\"private-key\",\"mode\":\"0600\"},{\"path\":\"/data/factory/serial\",\"template\":\"{{.serial}}\\n\",\"mode\":\"0644\"}]","inject_sha256":"d109133673dbe1335c958f2192df20062eda8cf008f9384df7fba10282719beb","keys":"software","manifest_sha256":"50a75616a4336f6aa5a59ea3a5d2beb10126384e27c00e24a3966d69c0aa4cd2","on_conflict":"fail","server":"https://127.0.0.1:38541","tool":"keymill devel","tool_sha256":"4499f94b5692b52cb1f868c44c773751ce432a7c46c506dad991124a592b701a"},"lot":"demo","schema":"keymill.event/1","seq":2,"station":"vm","time":"2026-11-30T10:18:06.057300Z"}',X'd596e47c7cd3791fc26789d671c7a456765f199a4016fed5992be1244c57bc8e');
INSERT INTO events VALUES(1099511627779,1,'{"action":"staged","algorithm":"ed25519","attempt":1,"device":{"mac":"ac:de:48:ad:d8:0d"},"from":"planned","key":"in-pack","lot":"demo","row":2,"run":2,"schema":"keymill.event/1","seq":3,"serial":"SN6524064","spki_sha256":"a2c2182ede4bbaf57c1cebef9d3cd1dd2a500a78512633d1fd2e316e64181a91","station":"vm","time":"2026-11-30T10:18:06.058988Z","to":"staged"}',X'dacbb11503ab70db293557baa8563271ec6e638b9875819ad845bcf8c4b1988c');
INSERT INTO events VALUES(1099511627780,1,'{"action":"staged","algorithm":"ed25519","attempt":1,"device":{"mac":"ac:de:48:e1:3c:38"},"from":"planned","key":"in-pack","lot":"demo","row":3,"run":2,"schema":"keymill.event/1","seq":4,"serial":"SN6524065","spki_sha256":"f2e74247920e2699cdd9a3ea3a7dbbb49f9ecf4a33140f0bd5a10907ce9720cb","station":"vm","time":"2026-11-30T10:18:06.060032Z","to":"staged"}',X'82964df35165f1fbd538a3c4814af39b33fde8ecccd48f017bceecc47d279294');
INSERT INTO events VALUES(1099511627781,1,'{"action":"staged","algorithm":"ed25519","attempt":1,"device":{"mac":"ac:de:48:14:a0:63"},"from":"planned","key":"in-pack","lot":"demo","row":4,"run":2,"schema":"keymill.event/1","seq":5,"serial":"SN6524066","spki_sha256":"f52e97f8a7b03bdd46e554925bf5b866500119df773d5668040f6a22f9b16c92","station":"vm","time":"2026-11-30T10:18:06.060032Z","to":"staged"}',X'db9838c70abb2a9f762ca7b999c2b2ae81648d8a097a940f03c5fd3752666b39');
INSERT INTO events VALUES(1099511627782,1,'{"action":"preauthorized","algorithm":"ed25519","attempt":1,"device":{"mac":"ac:de:48:ad:d8:0d"},"from":"staged","http_status":201,"lot":"demo","request_id":"329a3086-1721-4e7c-a840-3a81db205359","requests":1,"row":2,"run":2,"schema":"keymill.event/1","seq":6,"serial":"SN6524064","server_device_id":"c2a6eebd-f397-4ad0-a8df-00000000002a","spki_sha256":"a2c2182ede4bbaf57c1cebef9d3cd1dd2a500a78512633d1fd2e316e64181a91","station":"vm","time":"2026-11-30T10:18:06.062394Z","to":"preauthorized"}',X'c146d77a269b7cd9554164eefe5f94fab8581f90c130104e039055cc80871a81');
INSERT INTO events VALUES(1099511627783,1,'{"action":"preauthorized","algorithm":"ed25519","attempt":1,"device":{"mac":"ac:de:48:e1:3c:38"},"from":"staged","http_status":201,"lot":"demo","request_id":"f26b338e-de6a-4aac-8a6f-d633d25e73ad","requests":1,"row":3,"run":2,"schema":"keymill.event/1","seq":7,"serial":"SN6524065","server_device_id":"f7f42eda-e4c2-41c1-817d-000000000009","spki_sha256":"f2e74247920e2699cdd9a3ea3a7dbbb49f9ecf4a33140f0bd5a10907ce9720cb","station":"vm","time":"2026-11-30T10:18:06.063523Z","to":"preauthorized"}',X'68d001e02fe74ba98f6963b3ce4f046264aff5d4bf2bfad65ac8087246c6d084');
INSERT INTO events VALUES(1099511627784,1,'{"action":"preauthorized","algorithm":"ed25519","attempt":1,"device":{"mac":"ac:de:48:14:a0:63"},"from":"staged","http_status":201,"lot":"demo","request_id":"b2d361f7-3556-4d22-b020-a174f63c180f","requests":1,"row":4,"run":2,"schema":"keymill.event/1","seq":8,"serial":"SN6524066","server_device_id":"f0186f51-f049-41ff-87d2-00000000002b","spki_sha256":"f52e97f8a7b03bdd46e554925bf5b866500119df773d5668040f6a22f9b16c92","station":"vm","time":"2026-11-30T10:18:06.063523Z","to":"preauthorized"}',X'e91b5943074239b2be3413219d037764f47ebc174edfd717b26c93ff43eb07ce');
INSERT INTO events VALUES(1099511627785,1,'{"action":"released","algorithm":"ed25519","attempt":1,"device":{"mac":"ac:de:48:e1:3c:38"},"from":"preauthorized","key":"in-image","lot":"demo","output_bytes":67108864,"output_name":"ac-de-48-e1-3c-38.sdimg","output_sha256":"844a889fe134c8068864290c9486f66d66f8f116089c315ef97b534839ff467b","read_back":"match","row":3,"run":2,"schema":"keymill.event/1","seq":9,"serial":"SN6524065","spki_sha256":"f2e74247920e2699cdd9a3ea3a7dbbb49f9ecf4a33140f0bd5a10907ce9720cb","station":"vm","time":"2026-11-30T10:18:06.221540Z","to":"released"}',X'7c850f3baef16a25c4c94ca9f22f837af53dcef23b746c2f492c1bbba33c7921');
INSERT INTO events VALUES(1099511627786,1,'{"action":"released","algorithm":"ed25519","attempt":1,"device":{"mac":"ac:de:48:14:a0:63"},"from":"preauthorized","key":"in-image","lot":"demo","output_bytes":67108864,"output_name":"ac-de-48-14-a0-63.sdimg","output_sha256":"c6c1e795895c7f6096716d6b8769831e976ec04638608baeedcdce5784679be0","read_back":"match","row":4,"run":2,"schema":"keymill.event/1","seq":10,"serial":"SN6524066","spki_sha256":"f52e97f8a7b03bdd46e554925bf5b866500119df773d5668040f6a22f9b16c92","station":"vm","time":"2026-11-30T10:18:06.233625Z","to":"released"}',X'e86ea83e1281e519601440b3934cee0c916f8a311bc483df6a76405befb95237');
INSERT INTO events VALUES(1099511627787,1,'{"action":"released","algorithm":"ed25519","attempt":1,"device":{"mac":"ac:de:48:ad:d8:0d"},"from":"preauthorized","key":"in-image","lot":"demo","output_bytes":67108864,"output_name":"ac-de-48-ad-d8-0d.sdimg","output_sha256":"e6addbfd7acb881ceec81e1cea9f7fd65b5ed7f21b88b429e0ad6c16378c2ff9","read_back":"match","row":2,"run":2,"schema":"keymill.event/1","seq":11,"serial":"SN6524064","spki_sha256":"a2c2182ede4bbaf57c1cebef9d3cd1dd2a500a78512633d1fd2e316e64181a91","station":"vm","time":"2026-11-30T10:18:06.233625Z","to":"released"}',X'eddef01972426feb45646eea24d28fcf3276a267faee3cb09cb0609cb73d1e62');
INSERT INTO events VALUES(1099511627788,1,'{"action":"run-ended","facts":{"conflict":"0","devices":"3","failed":"0","keys_destroyed":"0","keys_generated":"3","keys_released":"3","planned":"0","preauthorized":"0","released":"3","staged":"0","undone":"0"},"lot":"demo","reason":"complete","run":2,"schema":"keymill.event/1","seq":12,"station":"vm","time":"2026-11-30T10:18:06.238501Z"}',X'e9ce266556c0d1a63c42ea9a17503e1ad8fefbd27cd9e2f6ff86e30559e10658');
INSERT INTO events VALUES(1099511627789,1,'{"action":"verified","facts":{"devices":"3","preauthorized":"3"},"lot":"demo","schema":"keymill.event/1","seq":13,"station":"vm","time":"2026-11-30T10:18:06.246102Z"}',X'd88b655be4531540729e4f8b537f34e9a6a272ccd066bd5ac8e2668ee2e51026');
INSERT INTO events VALUES(1099511627790,1,'{"action":"lot-closed","facts":{"balance":"{\"rows\":3,\"released\":3,\"failed\":0,\"conflict\":0,\"undone\":0,\"open\":0,\"keys_generated\":3,\"keys_in_images\":3,\"keys_destroyed\":0,\"keys_staged\":0,\"auth_sets_made\":3,\"auth_sets_released\":3,\"auth_sets_left\":0}","checkpoint":"keymill/vm\n13\nZDslClJ/hFUC9oq7mJCXTlAt8HraaYHEgAX2PdeTm34=\n\n— keymill/vm jAZPQGTCSACEKob1BLiTSHRfhGqxbbXBpGwu7TJ/65556q0tk2GC5oCUblY4TMI2n2OkQ4nXvBH7mEU3NM+RZ+aFtgg=\n"},"lot":"demo","schema":"keymill.event/1","seq":14,"station":"vm","time":"2026-11-30T10:18:06.249631Z"}',X'c6a5248f9ccb5631ff2b8af1f7b5d2348a303a894c7a6aa7ab3bd01d1641e017');
INSERT INTO events VALUES(1099511627791,1,'{"action":"exported","facts":{"checkpoint":"keymill/vm\n14\nUb313dyEquhznv6dXyT4L8DMVUaaK3Tk091Nk8i01c8=\n\n— keymill/vm jAZPQBBSozEySNdIwlLMtChiboDonisD03/GYYYeWxIhPC8SsGkQzjjA3dhtC6E1AFM5CTTHvRR5i11Nqf7BJboioAk=\n","statement_sha256":"484c695148c52585c8cdeede6cef229c5c077f849159a7903ebf0d31bb01c511"},"lot":"demo","schema":"keymill.event/1","seq":15,"station":"vm","time":"2026-11-30T10:18:06.286123Z"}',X'f71cd278058f8205f0de98f1b0076647bc879dd27b838f5b42e3746e8979d036');
INSERT INTO events VALUES(1099511627792,2,'{"action":"lot-planned","facts":{"devices":"3","format":"pack","golden_sha256":"e2d48bfb1e76504af63ae3a81dceefdd2017df4ee1f447a648d8718c45fbe689","identity":"mac","inject_sha256":"d109133673dbe1335c958f2192df20062eda8cf008f9384df7fba10282719beb","manifest_sha256":"796eab196b3df800566bb822a23f2b99d61bcdfc3ae62913c0562f2d4a25a754"},"lot":"flashed","schema":"keymill.event/1","seq":16,"station":"vm","time":"2026-11-30T10:18:21.306573Z"}',X'569e2c3d80666cecc4a3976f86db862908890a52c99b5aea2087af7a85839e84');
INSERT INTO events VALUES(1099511627793,2,'{"action":"run-started","facts":{"algorithm":"ed25519","config_sha256":"f8c277c66132caa1aa64245873136a9e82e51c9e1491286a2776ef31d8c80406","format":"pack","golden_sha256":"e2d48bfb1e76504af63ae3a81dceefdd2017df4ee1f447a648d8718c45fbe689","inject":"[{\"path\":\"/data/mender/mender-agent.pem\",\"content\":\"private-key\",\"mode\":\"0600\"},{\"path\":\"/data/factory/serial\",\"template\":\"{{.serial}}\\n\",\"mode\":\"0644\"}]","inject_sha256":"d109133673dbe1335c958f2192df20062eda8cf008f9384df7fba10282719beb","keys":"software","manifest_sha256":"796eab196b3df800566bb822a23f2b99d61bcdfc3ae62913c0562f2d4a25a754","on_conflict":"fail","server":"https://127.0.0.1:35625","tool":"keymill devel","tool_sha256":"4499f94b5692b52cb1f868c44c773751ce432a7c46c506dad991124a592b701a"},"lot":"flashed","schema":"keymill.event/1","seq":17,"station":"vm","time":"2026-11-30T10:18:21.465676Z"}',X'2865c8973578f42a8f3b0157639d81cd46925f6b57956f19fab30266f67fd7ef');
INSERT INTO events VALUES(1099511627794,2,'{"action":"staged","algorithm":"ed25519","attempt":1,"device":{"mac":"02:aa:00:00:00:01"},"from":"planned","key":"in-pack","lot":"flashed","row":2,"run":17,"schema":"keymill.event/1","seq":18,"serial":"FL001","spki_sha256":"36abb7ccb2c17a80557ddfbd39baac756bb2cce8aacb2cae9e908d20ba25258c","station":"vm","time":"2026-11-30T10:18:21.480101Z","to":"staged"}',X'04b501625042b3d934501e9bbfdeeb1b2fe895b04e881bead9a4a7ca93b7b9a6');
INSERT INTO events VALUES(1099511627795,2,'{"action":"staged","algorithm":"ed25519","attempt":1,"device":{"mac":"02:aa:00:00:00:03"},"from":"planned","key":"in-pack","lot":"flashed","row":4,"run":17,"schema":"keymill.event/1","seq":19,"serial":"FL003","spki_sha256":"4c36d3247c5507eec3f87eb433614b88302134515fd5021c997d50a7239f1471","station":"vm","time":"2026-11-30T10:18:21.485477Z","to":"staged"}',X'326a72b862efc3c9a5f03d2e7743785004a2d3950efb3e76a1493c46e41fac18');
INSERT INTO events VALUES(1099511627796,2,'{"action":"staged","algorithm":"ed25519","attempt":1,"device":{"mac":"02:aa:00:00:00:02"},"from":"planned","key":"in-pack","lot":"flashed","row":3,"run":17,"schema":"keymill.event/1","seq":20,"serial":"FL002","spki_sha256":"fc8d52982cba007d1d26f6131516d5ad97e5dae66c56b20ee0a1c229c3f7bf25","station":"vm","time":"2026-11-30T10:18:21.485477Z","to":"staged"}',X'eef4c8b8b98655e8b1491b29702687ec88e414e773df8be0a338165b7b943a1c');
INSERT INTO events VALUES(1099511627797,2,'{"action":"preauthorized","algorithm":"ed25519","attempt":1,"device":{"mac":"02:aa:00:00:00:01"},"from":"staged","http_status":201,"lot":"flashed","request_id":"6c6cf6a7-5228-4432-af26-876d353ef9ed","requests":1,"row":2,"run":17,"schema":"keymill.event/1","seq":21,"serial":"FL001","server_device_id":"f6e06b0e-c1da-4be0-9a3c-00000000003e","spki_sha256":"36abb7ccb2c17a80557ddfbd39baac756bb2cce8aacb2cae9e908d20ba25258c","station":"vm","time":"2026-11-30T10:18:21.499761Z","to":"preauthorized"}',X'6f82f274169b589f2357b3f65116f46e07efa67658d90329bbb64382816cc50c');
INSERT INTO events VALUES(1099511627798,2,'{"action":"preauthorized","algorithm":"ed25519","attempt":1,"device":{"mac":"02:aa:00:00:00:03"},"from":"staged","http_status":201,"lot":"flashed","request_id":"4b5ae877-a9b2-4dfb-8d89-6325bb6193e9","requests":1,"row":4,"run":17,"schema":"keymill.event/1","seq":22,"serial":"FL003","server_device_id":"012c3d7e-4aff-4dc7-bdc7-000000000011","spki_sha256":"4c36d3247c5507eec3f87eb433614b88302134515fd5021c997d50a7239f1471","station":"vm","time":"2026-11-30T10:18:21.499761Z","to":"preauthorized"}',X'a0ad6445bb91b52f612541deb8282f10aec1dab52932b313aa55bf13a76b99f2');
INSERT INTO events VALUES(1099511627799,2,'{"action":"preauthorized","algorithm":"ed25519","attempt":1,"device":{"mac":"02:aa:00:00:00:02"},"from":"staged","http_status":201,"lot":"flashed","request_id":"24c8d407-5858-41a0-b832-8b3dae6a01e6","requests":1,"row":3,"run":17,"schema":"keymill.event/1","seq":23,"serial":"FL002","server_device_id":"3cd11fea-8ff9-4dd9-aba8-000000000029","spki_sha256":"fc8d52982cba007d1d26f6131516d5ad97e5dae66c56b20ee0a1c229c3f7bf25","station":"vm","time":"2026-11-30T10:18:21.499761Z","to":"preauthorized"}',X'c0ee4b815b08ec36a03f7faffa6d6c79bb4903bc95df064b7f42eccb1ec05d2f');
INSERT INTO events VALUES(1099511627800,2,'{"action":"released","algorithm":"ed25519","attempt":1,"device":{"mac":"02:aa:00:00:00:02"},"from":"preauthorized","key":"in-image","lot":"flashed","output_bytes":245,"read_back":"match","row":3,"run":17,"schema":"keymill.event/1","seq":24,"serial":"FL002","spki_sha256":"fc8d52982cba007d1d26f6131516d5ad97e5dae66c56b20ee0a1c229c3f7bf25","station":"vm","time":"2026-11-30T10:18:21.511432Z","to":"released"}',X'9d95b96cd20a2a6bcbb8bb4d0cb649a6ad54367d198febbd780e912c1e030607');
INSERT INTO events VALUES(1099511627801,2,'{"action":"released","algorithm":"ed25519","attempt":1,"device":{"mac":"02:aa:00:00:00:01"},"from":"preauthorized","key":"in-image","lot":"flashed","output_bytes":245,"read_back":"match","row":2,"run":17,"schema":"keymill.event/1","seq":25,"serial":"FL001","spki_sha256":"36abb7ccb2c17a80557ddfbd39baac756bb2cce8aacb2cae9e908d20ba25258c","station":"vm","time":"2026-11-30T10:18:21.533773Z","to":"released"}',X'e00e3ac7a59d7c03c1a20e3ce3cace21aec61cdb1c81d2abcfff95388ac64e99');
INSERT INTO events VALUES(1099511627802,2,'{"action":"released","algorithm":"ed25519","attempt":1,"device":{"mac":"02:aa:00:00:00:03"},"from":"preauthorized","key":"in-image","lot":"flashed","output_bytes":245,"read_back":"match","row":4,"run":17,"schema":"keymill.event/1","seq":26,"serial":"FL003","spki_sha256":"4c36d3247c5507eec3f87eb433614b88302134515fd5021c997d50a7239f1471","station":"vm","time":"2026-11-30T10:18:21.533773Z","to":"released"}',X'6b6cd512df0189e0a59b8aafd0aeb25735ab742122388b3f27e613ba418b8fdc');
INSERT INTO events VALUES(1099511627803,2,'{"action":"run-ended","facts":{"conflict":"0","devices":"3","failed":"0","keys_destroyed":"0","keys_generated":"3","keys_released":"3","planned":"0","preauthorized":"0","released":"3","staged":"0","undone":"0"},"lot":"flashed","reason":"complete","run":17,"schema":"keymill.event/1","seq":27,"station":"vm","time":"2026-11-30T10:18:21.553985Z"}',X'c3a3b41c096e1c34890631894b3e11b8bd2ddd5c4c530201127ff79d940904fd');
INSERT INTO events VALUES(1099511627804,2,'{"action":"verified","facts":{"devices":"3","preauthorized":"3"},"lot":"flashed","schema":"keymill.event/1","seq":28,"station":"vm","time":"2026-11-30T10:18:21.589806Z"}',X'ad2236bd65d6687f5a1fa0225bb00948637e027543103a3e87edd6e109d492de');
INSERT INTO events VALUES(1099511627805,2,'{"action":"lot-closed","facts":{"balance":"{\"rows\":3,\"released\":3,\"failed\":0,\"conflict\":0,\"undone\":0,\"open\":0,\"keys_generated\":3,\"keys_in_images\":3,\"keys_destroyed\":0,\"keys_staged\":0,\"auth_sets_made\":3,\"auth_sets_released\":3,\"auth_sets_left\":0}","checkpoint":"keymill/vm\n28\nwpMm7/pJZori1zezl/T8nxe5ZR9aRMpo/lRHVmvPZwI=\n\n— keymill/vm jAZPQDF1VsJH/LZSV4QBpLARcdqF41BgcskivaX5bb9/FlRfoWTeDD6TpMMeuzk843y4+1bbFEt/cJ6W0Ho+VkIpZgM=\n"},"lot":"flashed","schema":"keymill.event/1","seq":29,"station":"vm","time":"2026-11-30T10:18:21.602604Z"}',X'538fe76f4cd5e28f0a8198709408a88bfaff9efcd67782c7c95bfd4d28b75838');
INSERT INTO events VALUES(1099511627806,2,'{"action":"exported","facts":{"checkpoint":"keymill/vm\n29\n+Xe4RafKfkckOfRX/h32eyBmxvtgATYmtdq5gHLIkEY=\n\n— keymill/vm jAZPQNIwHEARgSKH4lDAG/rAY+P+/kDvrIlt3F3uHACt1ekysNSmW5HztAJDwao3Gbwa58Uj0rwz3F40UjXSzGnwvQ0=\n","statement_sha256":"0bf975328ed68b55b9e630ecf0815d4388c94256a76e5e82aa17e253143ce71d"},"lot":"flashed","schema":"keymill.event/1","seq":30,"station":"vm","time":"2026-11-30T10:18:21.628925Z"}',X'd21049c7a54a7274af82b30d836e7eca9becc776bfb335c121b8dfc9a2350630');
INSERT INTO events VALUES(1099511627807,2,'{"action":"flashed","device":{"mac":"02:aa:00:00:00:01"},"facts":{"disk":"/dev/loop0"},"lot":"flashed","read_back":"match","row":2,"schema":"keymill.event/1","seq":31,"spki_sha256":"36abb7ccb2c17a80557ddfbd39baac756bb2cce8aacb2cae9e908d20ba25258c","station":"vm","time":"2026-11-30T10:18:21.661675Z"}',X'a9c82e7d7e170e13358409d7b1b51aabedbc866ca429cb6c8b7d26a730b208e4');
INSERT INTO events VALUES(1099511627808,2,'{"action":"flashed","device":{"mac":"02:aa:00:00:00:02"},"facts":{"disk":"/dev/loop0"},"lot":"flashed","read_back":"match","row":3,"schema":"keymill.event/1","seq":32,"spki_sha256":"fc8d52982cba007d1d26f6131516d5ad97e5dae66c56b20ee0a1c229c3f7bf25","station":"vm","time":"2026-11-30T10:18:21.788245Z"}',X'89ae2a8acf883c836f1cd0bd200b10c50a405acf3cd93cfb0531445eda7e4720');
INSERT INTO events VALUES(1099511627809,2,'{"action":"flashed","device":{"mac":"02:aa:00:00:00:01"},"facts":{"disk":"/dev/loop0"},"lot":"flashed","read_back":"match","row":2,"schema":"keymill.event/1","seq":33,"spki_sha256":"36abb7ccb2c17a80557ddfbd39baac756bb2cce8aacb2cae9e908d20ba25258c","station":"vm","time":"2026-11-30T10:18:21.819397Z"}',X'a9d82e7506532f7289aca814999e7df48c692ca61ee592d5dad64feed0879073');
INSERT INTO events VALUES(1099511627810,2,'{"action":"rekeyed","algorithm":"ed25519","attempt":1,"device":{"mac":"02:aa:00:00:00:02"},"from":"released","key":"destroyed","lot":"flashed","reason":"retry --rekey","row":3,"schema":"keymill.event/1","seq":34,"spki_sha256":"fc8d52982cba007d1d26f6131516d5ad97e5dae66c56b20ee0a1c229c3f7bf25","station":"vm","time":"2026-11-30T10:18:21.875080Z","to":"planned"}',X'd7ab1898a3049fc73a9e9220aca0f9f87f6707b280fdffc5c3a5c8037d64e6fc');
INSERT INTO events VALUES(1099511627811,2,'{"action":"run-started","facts":{"algorithm":"ed25519","config_sha256":"248c2596c1a4c167ae261df23d1eabcfd415ded94629dfe04eaade42aaacc7ec","format":"pack","golden_sha256":"e2d48bfb1e76504af63ae3a81dceefdd2017df4ee1f447a648d8718c45fbe689","inject":"[{\"path\":\"/data/mender/mender-agent.pem\",\"content\":\"private-key\",\"mode\":\"0600\"},{\"path\":\"/data/factory/serial\",\"template\":\"{{.serial}}\\n\",\"mode\":\"0644\"}]","inject_sha256":"d109133673dbe1335c958f2192df20062eda8cf008f9384df7fba10282719beb","keys":"software","manifest_sha256":"796eab196b3df800566bb822a23f2b99d61bcdfc3ae62913c0562f2d4a25a754","on_conflict":"fail","server":"https://127.0.0.1:35625","tool":"keymill devel","tool_sha256":"4499f94b5692b52cb1f868c44c773751ce432a7c46c506dad991124a592b701a"},"lot":"flashed","schema":"keymill.event/1","seq":35,"station":"vm","time":"2026-11-30T10:18:22.044388Z"}',X'048ed18dc5e10084d38b81bb3658860b0e78bd39d39afccd1b9c227365822066');
INSERT INTO events VALUES(1099511627812,2,'{"action":"staged","algorithm":"ed25519","attempt":2,"device":{"mac":"02:aa:00:00:00:02"},"from":"planned","key":"in-pack","lot":"flashed","row":3,"run":35,"schema":"keymill.event/1","seq":36,"serial":"FL002","spki_sha256":"3483ff723276809116e54c90325f48a179494ab2b459a154814738098018c7e9","station":"vm","time":"2026-11-30T10:18:22.143040Z","to":"staged"}',X'ab8c6394b340e61fbcf31c30928e5a9d214c21d7e96129e7c46e69bc3218da46');
INSERT INTO events VALUES(1099511627813,2,'{"action":"preauthorized","algorithm":"ed25519","attempt":2,"device":{"mac":"02:aa:00:00:00:02"},"from":"staged","http_status":201,"lot":"flashed","request_id":"625b597e-622b-4c19-a711-c87e4ade402a","requests":5,"row":3,"run":35,"schema":"keymill.event/1","seq":37,"serial":"FL002","server_device_id":"d56b7214-d334-4b6e-abdd-000000000069","spki_sha256":"3483ff723276809116e54c90325f48a179494ab2b459a154814738098018c7e9","station":"vm","time":"2026-11-30T10:18:22.255273Z","to":"preauthorized"}',X'ceef9a5caa3d564a3661f9358409c9b77d73401439b7679bec808f08bb4138d7');
INSERT INTO events VALUES(1099511627814,2,'{"action":"released","algorithm":"ed25519","attempt":2,"device":{"mac":"02:aa:00:00:00:02"},"from":"preauthorized","key":"in-image","lot":"flashed","output_bytes":245,"read_back":"match","row":3,"run":35,"schema":"keymill.event/1","seq":38,"serial":"FL002","spki_sha256":"3483ff723276809116e54c90325f48a179494ab2b459a154814738098018c7e9","station":"vm","time":"2026-11-30T10:18:22.256173Z","to":"released"}',X'13eb56e487c673a544e2565dd047aae4b6b29f949cd778938f443a03704f6ab8');
INSERT INTO events VALUES(1099511627815,2,'{"action":"run-ended","facts":{"conflict":"0","devices":"3","failed":"0","keys_destroyed":"1","keys_generated":"4","keys_released":"3","planned":"0","preauthorized":"0","released":"3","staged":"0","undone":"0"},"lot":"flashed","reason":"complete","run":35,"schema":"keymill.event/1","seq":39,"station":"vm","time":"2026-11-30T10:18:22.256701Z"}',X'5831b0bf358bcecf44bbbc05f9bac6bfd4b4de36806aafe3313ed2fec64c0b03');
INSERT INTO events VALUES(1099511627816,2,'{"action":"exported","facts":{"checkpoint":"keymill/vm\n39\nbjXbOw84+kW4bJSqRvtMj+mI6IogpEV6xQUJJBxpbSc=\n\n— keymill/vm jAZPQDulxa2ahAzxRbcgDBaAjRaQbUw6BQlC3yG6Tdru6NxHaP9riUwFyzPipIZnXvwODxTpc9ersxL//Nf00TA+EA8=\n","statement_sha256":"fb34a99ef17cbb59cb2600fad10e368e16f8fe5071e734e6dcbe67ce28ac91c1"},"lot":"flashed","schema":"keymill.event/1","seq":40,"station":"vm","time":"2026-11-30T10:18:22.280463Z"}',X'b4b0fb584a2d75dde346aaa02143e7f215c409890bad744c8f1dd936ee3ea8a7');
INSERT INTO events VALUES(1099511627817,3,'{"action":"lot-planned","facts":{"devices":"2","format":"raw","golden_sha256":"e2d48bfb1e76504af63ae3a81dceefdd2017df4ee1f447a648d8718c45fbe689","identity":"mac","inject_sha256":"d109133673dbe1335c958f2192df20062eda8cf008f9384df7fba10282719beb","manifest_sha256":"9bf04f6c70fe131a4b26d99337a6da0b131ce16f03677070985ca6b44219b183"},"lot":"open","schema":"keymill.event/1","seq":41,"station":"vm","time":"2026-11-30T10:18:49.620153Z"}',X'd466ae987b0b49130aa78d9a5518a1843c54e814ae9093b76bd440895add7f96');
INSERT INTO events VALUES(1099511627818,3,'{"action":"run-started","facts":{"algorithm":"ed25519","config_sha256":"ccdd5e029aa8e10c57f9cf384d34dcc18d9fb991e6ec6bf0055bd5706ee2dc96","format":"raw","golden_sha256":"e2d48bfb1e76504af63ae3a81dceefdd2017df4ee1f447a648d8718c45fbe689","inject":"[{\"path\":\"/data/mender/mender-agent.pem\",\"content\":\"private-key\",\"mode\":\"0600\"},{\"path\":\"/data/factory/serial\",\"template\":\"{{.serial}}\\n\",\"mode\":\"0644\"}]","inject_sha256":"d109133673dbe1335c958f2192df20062eda8cf008f9384df7fba10282719beb","keys":"software","manifest_sha256":"9bf04f6c70fe131a4b26d99337a6da0b131ce16f03677070985ca6b44219b183","on_conflict":"fail","server":"https://127.0.0.1:40215","tool":"keymill devel","tool_sha256":"4499f94b5692b52cb1f868c44c773751ce432a7c46c506dad991124a592b701a"},"lot":"open","schema":"keymill.event/1","seq":42,"station":"vm","time":"2026-11-30T10:18:49.732873Z"}',X'd0fbb9d50b524f1961c529905bd0698d42a8a27ed20ae9b5277355efbb6bdd55');
INSERT INTO events VALUES(1099511627819,3,'{"action":"staged","algorithm":"ed25519","attempt":1,"device":{"mac":"02:bb:00:00:00:01"},"from":"planned","key":"in-pack","lot":"open","row":2,"run":42,"schema":"keymill.event/1","seq":43,"serial":"OP001","spki_sha256":"6ea631bd18de605d1b00d25a3cdb6e147104cdd9edaaea37d3ed674a3f69e2d8","station":"vm","time":"2026-11-30T10:18:49.747291Z","to":"staged"}',X'473e6afd7f8ea007e59ea77623c4f22f159704f0ab20feae8124040566a1f8a0');
INSERT INTO events VALUES(1099511627820,3,'{"action":"staged","algorithm":"ed25519","attempt":1,"device":{"mac":"02:bb:00:00:00:02"},"from":"planned","key":"in-pack","lot":"open","row":3,"run":42,"schema":"keymill.event/1","seq":44,"serial":"OP002","spki_sha256":"a1b516a41d50d7727a39348a976419db12269204f4f477eb181e7b3c15f8f4ee","station":"vm","time":"2026-11-30T10:18:49.749347Z","to":"staged"}',X'6f9e6af135d0ca1fd9554c4d9be41759dde7ecceab9b064bc81f27d5671af00a');
CREATE TABLE IF NOT EXISTS "allocations" (
    id      INTEGER PRIMARY KEY,
    name    TEXT    NOT NULL, -- of the numbers: of MAC addresses, of a serial's pattern
    first   INTEGER NOT NULL,
    last    INTEGER NOT NULL, -- inclusive
    lot     TEXT    NOT NULL, -- whom they were given to
    created INTEGER NOT NULL,
    undone  INTEGER NOT NULL DEFAULT 0 -- when the lot was undone, 0 if it was not
);
DELETE FROM sqlite_sequence;
INSERT INTO sqlite_sequence VALUES('goose_db_version',4);
CREATE INDEX records_superseded ON records (superseded) WHERE superseded > 0;
CREATE INDEX events_lot ON events (lot, id);
CREATE UNIQUE INDEX allocations_live ON allocations (name, first) WHERE undone = 0;
CREATE INDEX allocations_lot ON allocations (lot);
COMMIT;
