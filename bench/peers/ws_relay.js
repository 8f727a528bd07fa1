// The least that can be called a signaling relay on `ws`: rooms, a stamped sender, nothing else.
const { WebSocketServer } = require("ws");

const rooms = new Map();
const server = new WebSocketServer({
  host: "127.0.0.1",
  port: 0,
  backlog: 4096,
  maxPayload: 128 * 1024,
  perMessageDeflate: false,
});

server.on("listening", () => console.log(JSON.stringify({ port: server.address().port })));
server.on("connection", (socket) => {
  let room = null;
  let roomName = "";
  let id = "";
  socket.on("error", () => {});
  socket.on("message", (raw) => {
    let message;
    try {
      message = JSON.parse(raw);
    } catch {
      return;
    }
    if (message.to !== undefined) {
      const target = room?.get(message.to);
      if (target) target.send(JSON.stringify({ type: message.type, from: id, data: message.data }));
    } else if (message.type === "join" && !room) {
      ({ id, room: roomName } = message);
      room = rooms.get(roomName);
      if (!room) rooms.set(roomName, (room = new Map()));
      room.set(id, socket);
      socket.send('{"type":"joined"}');
    }
  });
  socket.on("close", () => {
    if (!room) return;
    room.delete(id);
    if (!room.size) rooms.delete(roomName);
  });
});
