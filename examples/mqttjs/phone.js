// A phone with mqtt.js 5, over WebSocket: registers over MQTT, then stays connected. In a browser it is the same.
const fs = require("node:fs");
const mqtt = require("mqtt");

const env = process.env;
const file = env.HALLEY_PHONE || "phone.json";
const phone = fs.existsSync(file) ? JSON.parse(fs.readFileSync(file)) : { install_id: crypto.randomUUID() };
const url = env.HALLEY_WS || env.HALLEY_URL.replace(/^http/, "ws") + "/mqtt";

const client = mqtt.connect(url, {
  protocolVersion: 5,
  clientId: phone.token || "", // empty: register
  username: env.HALLEY_APP,
  password: phone.secret || env.HALLEY_CLIENT_KEY,
  properties: { userProperties: { install_id: phone.install_id, platform: "web" } },
  keepalive: Number(env.HALLEY_KEEP_ALIVE || 60),
  reconnectPeriod: 1000,
});

client.on("connect", ({ properties }) => {
  if (properties.assignedClientIdentifier) {
    // Registered: from now on we are this device.
    phone.token = client.options.clientId = properties.assignedClientIdentifier;
    phone.secret = client.options.password = properties.userProperties.secret;
    fs.writeFileSync(file, JSON.stringify(phone), { mode: 0o600 });
    console.error("registered");
  }
  client.subscribe("push/" + env.HALLEY_APP, { qos: 1 }); // what was kept comes now
});

client.on("message", (_topic, payload) => console.log(payload.toString()));

client.on("disconnect", ({ reasonCode }) => {
  console.error("sent away: 0x" + reasonCode.toString(16));
  if (reasonCode === 0x8e) client.end(); // taken over: the newer connection is ours, too
  if (reasonCode === 0x98) {
    // Removed, or the secret is void: register again. The same install_id gives the same token, if the device is still there.
    client.options.clientId = "";
    client.options.password = env.HALLEY_CLIENT_KEY;
  }
});

client.on("error", (err) => console.error(err.message));
