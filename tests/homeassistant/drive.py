"""Home Assistant's own MQTT integration against the broker of a girasol device: what it makes of the discovery message.

    python drive.py PORT [DEVICE]

Needs `homeassistant` and the `paho-mqtt` that its integration asks for (`make test-homeassistant` installs both). Home
Assistant's core is started in a folder of its own with nothing but MQTT, finds the device, and operates it. Prints one
JSON object that says what happened; tests/tests/commands.rs judges it.
"""

from __future__ import annotations

import asyncio
import json
import pathlib
import socket
import sys
import tempfile
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from homeassistant import auth, bootstrap, config_entries, core, loader
from homeassistant.const import __version__
from homeassistant.helpers import device_registry, entity_registry
from homeassistant.setup import async_setup_component
from homeassistant.util import yaml

SECONDS = 60.0
QUESTION = "is anyone speaking?"
EXAMPLE = pathlib.Path(__file__).parents[2] / "docs" / "examples" / "home-assistant.yaml"


async def until(what: str, found: Callable[[], Any]) -> Any:
    """The first thing that `found` finds."""
    for _ in range(int(SECONDS * 10)):
        if result := found():
            return result
        await asyncio.sleep(0.1)
    raise SystemExit(f"drive.py: {what}: nothing within {SECONDS:.0f} s")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def start(folder: str, port: int) -> core.HomeAssistant:
    """The core with the MQTT integration set up for the broker."""
    pathlib.Path(folder, "configuration.yaml").touch()
    hass = core.HomeAssistant(folder)
    hass.config.skip_pip = True
    loader.async_setup(hass)
    hass.config_entries = config_entries.ConfigEntries(hass, {})
    await loader.async_get_custom_components(hass)
    await bootstrap.async_load_base_functionality(hass)
    hass.auth = await auth.auth_manager_from_config(hass, [], [])
    web = {"http": {"server_host": ["127.0.0.1"], "server_port": free_port()}}
    for component, config in (("homeassistant", {}), ("http", web)):
        if not await async_setup_component(hass, component, config):
            raise SystemExit(f"drive.py: Home Assistant could not set up `{component}`")
    entry = config_entries.ConfigEntry(
        data={"broker": "127.0.0.1", "port": port, "protocol": "5"}, discovery_keys=MappingProxyType({}), domain="mqtt",
        minor_version=1, options={}, source="user", subentries_data=[], title="broker", unique_id=None, version=1,
    )  # fmt: skip
    await hass.config_entries.async_add(entry)
    if entry.state is not config_entries.ConfigEntryState.LOADED:
        raise SystemExit(f"drive.py: the MQTT integration is {entry.state}: {entry.reason}")
    await hass.async_start()
    return hass


class Device:
    """The device as Home Assistant knows it; entities by the key that the discovery message gives them."""

    def __init__(self, hass: core.HomeAssistant, identifier: str) -> None:
        self.hass, self.identifier = hass, identifier

    def entities(self) -> dict[str, entity_registry.RegistryEntry]:
        devices = device_registry.async_get(self.hass).devices.values()
        ids = {d.id for d in devices if ("mqtt", self.identifier) in d.identifiers}
        known = entity_registry.async_get(self.hass).entities.values()
        return {e.unique_id.removeprefix(f"{self.identifier}_"): e for e in known if e.device_id in ids}

    def state(self, key: str) -> str | None:
        entity = self.entities().get(key)
        state = entity and self.hass.states.get(entity.entity_id)
        return state and state.state

    async def call(self, key: str, service: str, **data: Any) -> None:
        entity = self.entities()[key].entity_id
        domain = entity.split(".")[0]
        await self.hass.services.async_call(domain, service, {"entity_id": entity, **data}, blocking=True)


async def settled(device: Device) -> None:
    """Until no entity has come for two seconds: Home Assistant adds them platform by platform."""
    count, quiet = 0, 0
    while quiet < 20:
        await asyncio.sleep(0.1)
        now = len(device.entities())
        count, quiet = now, quiet + 1 if now == count else 0


async def automate(hass: core.HomeAssistant, device: Device) -> list[str]:
    """The example automations: what they notify of, and that they make the device deaf while somebody is at home."""
    notified: list[str] = []
    hass.services.async_register("notify", "notify", lambda call: notified.append(call.data["message"]))
    hass.states.async_set("zone.home", "0")
    if not await async_setup_component(hass, "automation", yaml.load_yaml_dict(str(EXAMPLE))):
        raise SystemExit(f"drive.py: Home Assistant does not take {EXAMPLE.name}")
    for kind, label in (("new", "dog_bark"), ("new", "glass_break"), ("end", "glass_break")):
        event = {"type": kind, "label": label, "text": f"{kind} {label}", "confidence": 0.9}
        await hass.services.async_call(
            "mqtt", "publish", {"topic": "girasol/porch/event", "payload": json.dumps(event)}, blocking=True
        )
    await until("a notification", lambda: notified)
    for at_home, listen in (("1", "off"), ("0", "on")):
        hass.states.async_set("zone.home", at_home)
        await until(f"the device to be {listen}", lambda wanted=listen: device.state("listen") == wanted)
    return notified


async def drive(port: int, name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="girasol-ha-") as folder:
        hass = await start(folder, port)
        device = Device(hass, f"girasol_{name}")
        told: dict[str, Any] = {"home_assistant": __version__}
        await until("the device", device.entities)
        await settled(device)
        await until("a state of the device", lambda: device.state("bundle") not in (None, "unknown"))
        told["entities"] = {
            key: {"entity": e.entity_id, "enabled": e.disabled_by is None, "state": device.state(key)}
            for key, e in device.entities().items()
        }
        sensors = [k for k, e in device.entities().items()
                   if k.startswith("hear_") and e.entity_id.startswith("binary_sensor.")]  # fmt: skip
        label = (await until("a sound", lambda: [k for k in sensors if device.state(k) == "on"]))[0]
        told["heard"], event = label, device.entities()["hear"].entity_id
        told["event"] = await until("an event", lambda: hass.states.get(event).attributes.get("event_type"))
        await device.call("listen", "turn_off")
        told["listen"] = await until("the switch off", lambda: device.state("listen") == "off" and "off")
        await device.call("listen", "turn_on")
        await until("the switch on", lambda: device.state("listen") == "on")
        told["notified"] = await automate(hass, device)
        await device.call("question", "set_value", value=QUESTION)
        told["answer"] = await until("an answer", lambda: device.state("answer") not in (None, "unknown", "")
                                     and device.state("answer"))  # fmt: skip
        await device.call(f"{label}_enabled", "turn_off")
        await until("the sensor gone", lambda: label not in device.entities())
        told["removed"] = label
        await hass.async_stop(force=True)
        return told


def main() -> None:
    port, name = int(sys.argv[1]), (*sys.argv, "porch")[2]
    print(json.dumps(asyncio.run(drive(port, name))))


if __name__ == "__main__":
    main()
