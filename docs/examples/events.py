#!/usr/bin/env python3
"""Prints girasol's events as they come; with a question, asks it and prints the answer.

    events.py [--host HOST] [--port PORT] [--prefix girasol]
    events.py --device porch --ask "is anyone speaking?"

Needs paho-mqtt 2 (pip install paho-mqtt).
"""

import argparse
import json
import sys
import uuid


class Copies:
    """Tells copies of an event message apart: QoS 1 may deliver one twice, on `event` and on `event/replayed`."""

    def __init__(self, remembered=10_000):
        self.seen = {}
        self.remembered = remembered

    def is_new(self, event):
        key = (event["device"], event["id"], event["type"], event["seq"])
        if key in self.seen:
            return False
        self.seen[key] = None
        if len(self.seen) > self.remembered:
            del self.seen[next(iter(self.seen))]
        return True


def parse(payload):
    """The event, or None for what is none of version 1."""
    try:
        event = json.loads(payload)
    except ValueError:
        return None
    wanted = ("device", "id", "type", "seq", "label", "text")
    if not isinstance(event, dict) or event.get("v") != 1 or any(key not in event for key in wanted):
        return None
    return event


def describe(event):
    """One line for people."""
    return f"{event['device']}: {event['type']:6} {event['label']}: {event['text']}"


def connect(arguments, on_connect, on_message):
    import paho.mqtt.client as mqtt

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.on_connect, client.on_message = on_connect, on_message
    if arguments.username:
        with open(arguments.password_file, encoding="utf-8") as file:
            client.username_pw_set(arguments.username, file.read().rstrip("\n"))
    client.connect(arguments.host, arguments.port)
    return client


def listen(arguments):
    copies = Copies()

    def on_connect(client, *_):
        # In here, so that it is done again on each connection.
        client.subscribe(f"{arguments.prefix}/+/event", qos=1)

    def on_message(_client, _data, message):
        event = parse(message.payload)
        if event and copies.is_new(event):
            print(describe(event), flush=True)

    connect(arguments, on_connect, on_message).loop_forever()


def ask(arguments):
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    correlation, answers = uuid.uuid4().bytes, f"girasol-answers/{uuid.uuid4().hex}"

    def on_connect(client, *_):
        client.subscribe(answers, qos=1)

    def on_subscribe(client, *_):
        properties = Properties(PacketTypes.PUBLISH)
        properties.ResponseTopic, properties.CorrelationData = answers, correlation
        topic = f"{arguments.prefix}/{arguments.device}/command/ask"
        client.publish(topic, json.dumps({"question": arguments.ask}), qos=1, properties=properties)

    def on_message(client, _data, message):
        if getattr(message.properties, "CorrelationData", None) == correlation:
            response = json.loads(message.payload)
            print(response["result"]["answer"] if response["ok"] else response["error"]["text"], flush=True)
            client.disconnect()

    client = connect(arguments, on_connect, on_message)
    client.on_subscribe = on_subscribe
    client.loop_forever()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--prefix", default="girasol")
    parser.add_argument("--username")
    parser.add_argument("--password-file")
    parser.add_argument("--device", help="the device to ask")
    parser.add_argument("--ask", metavar="QUESTION")
    arguments = parser.parse_args()
    if arguments.ask and not arguments.device:
        parser.error("--ask needs --device")
    (ask if arguments.ask else listen)(arguments)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
