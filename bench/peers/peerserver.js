// PeerServer as its README starts it; only the number of clients is raised.
const { PeerServer } = require("peer");

const options = { host: "127.0.0.1", port: 0, path: "/", key: "peerjs", concurrent_limit: 100000 };
PeerServer(options, (server) => console.log(JSON.stringify({ port: server.address().port })));
