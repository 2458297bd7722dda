#!/usr/bin/env python3
"""Keeps girasol's events in an SQLite database: every message once, and one row per event with its beginning and end.

    record.py events.db [--host HOST] [--port PORT] [--prefix girasol]

A Session Expiry Interval (MQTT 5) lets the broker keep what comes while this program is away. Needs paho-mqtt 2.
"""

import argparse
import json
import sqlite3
import sys

TABLES = """
CREATE TABLE IF NOT EXISTS messages (
    device TEXT NOT NULL, id TEXT NOT NULL, type TEXT NOT NULL, seq INTEGER NOT NULL,
    replayed INTEGER NOT NULL, payload TEXT NOT NULL,
    PRIMARY KEY (device, id, type, seq)
) WITHOUT ROWID;
CREATE VIEW IF NOT EXISTS events AS
SELECT device, id,
       json_extract(payload, '$.label') AS label,
       json_extract(payload, '$.sense') AS sense,
       max(json_extract(payload, '$.confidence')) AS confidence,
       min(json_extract(payload, '$.start')) AS start,
       max(CASE type WHEN 'end' THEN json_extract(payload, '$.duration') END) AS duration,
       max(CASE type WHEN 'end' THEN json_extract(payload, '$.reason') END) AS reason
FROM messages GROUP BY device, id;
"""


def open_database(path):
    database = sqlite3.connect(path)
    database.executescript(TABLES)
    return database


def keep(database, topic, payload):
    """Keeps a message; returns whether it is new. What is no event of version 1 is left out."""
    try:
        event = json.loads(payload)
        if event["v"] != 1:
            return False
        row = (event["device"], event["id"], event["type"], event["seq"])
    except (ValueError, KeyError, TypeError):
        return False
    text = payload.decode() if isinstance(payload, bytes) else payload
    with database:
        sql = "INSERT OR IGNORE INTO messages VALUES (?, ?, ?, ?, ?, ?)"
        return database.execute(sql, (*row, topic.endswith("/replayed"), text)).rowcount == 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database")
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--prefix", default="girasol")
    arguments = parser.parse_args()

    import paho.mqtt.client as mqtt
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    database = open_database(arguments.database)
    client = mqtt.Client(
        mqtt.CallbackAPIVersion.VERSION2, client_id="girasol-recorder", protocol=mqtt.MQTTv5, manual_ack=True
    )

    def on_connect(client, *_):
        client.subscribe([(f"{arguments.prefix}/+/event", 1), (f"{arguments.prefix}/+/event/replayed", 1)])

    def on_message(client, _data, message):
        keep(database, message.topic, message.payload)
        # Acknowledged only now that it is on disk.
        client.ack(message.mid, message.qos)

    client.on_connect, client.on_message = on_connect, on_message
    week = Properties(PacketTypes.CONNECT)
    week.SessionExpiryInterval = 7 * 24 * 3600
    client.connect(arguments.host, arguments.port, clean_start=False, properties=week)
    client.loop_forever()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
