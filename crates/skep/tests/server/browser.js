// What the pages of `browser.rs` do. `settings` stands before it; what was seen goes back to the page's own server.

const { hub, token, elsewhere, page } = settings;

async function ask(method, headers, body) {
  const response = await fetch(`${hub}/mcp`, {
    method,
    headers: {
      authorization: `Bearer ${token}`,
      ...(body && { "content-type": "application/json", accept: "application/json, text/event-stream" }),
      ...headers,
    },
    body: body && JSON.stringify(body),
  });
  return response;
}

// A refusal as a page can read it, or that it can read nothing.
async function refusal(asking) {
  try {
    const response = await asking;
    const body = await response.text();
    const said = body.startsWith("{") ? JSON.parse(body) : body;
    return [response.status, said.code ?? said.error?.code ?? said];
  } catch (error) {
    return error.name;
  }
}

const request = (id, method, params = {}) => ({ jsonrpc: "2.0", id, method, params });
const call = (id) => request(id, "tools/call", { name: "echo", arguments: { text: "from a page" } });

async function session() {
  const client = { name: "page", version: "1" };
  const opened = await ask("POST", {}, request(0, "initialize", {
    protocolVersion: "2025-06-18", capabilities: {}, clientInfo: client,
  }));
  const revision = (await opened.json()).result.protocolVersion;
  const headers = { "mcp-session-id": opened.headers.get("mcp-session-id"), "mcp-protocol-version": revision };
  const notified = await ask("POST", headers, { jsonrpc: "2.0", method: "notifications/initialized" });
  const listed = await (await ask("POST", headers, request(1, "tools/list"))).json();
  const called = await (await ask("POST", headers, call(2))).json();

  const events = { ...headers, accept: "text/event-stream" };
  const streamed = await (await ask("POST", events, call(3))).text();
  const [, stream, number, data] = /^id: (\d+)_(\d+)\nevent: message\ndata: (.*)\n/m.exec(streamed);
  const again = await ask("GET", { ...events, "last-event-id": `${stream}_${number - 1}` });
  const resumed = await again.text();

  const unsolicited = await ask("GET", events);
  const ended = await ask("DELETE", headers);
  const rest = await unsolicited.text();
  return {
    revision,
    notified: notified.status,
    tools: listed.result.tools.map((tool) => tool.name),
    called: called.result.structuredContent,
    streamed: JSON.parse(data).result.structuredContent,
    resumed: resumed === streamed,
    unsolicited: [unsolicited.status, unsolicited.headers.get("content-type"), rest],
    ended: ended.status,
    afterwards: await refusal(ask("POST", headers, request(4, "tools/list"))),
  };
}

const stateless = (name) => {
  const message = call("a");
  message.params._meta = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
  };
  const headers = { "mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": name };
  return ask("POST", { ...headers, "mcp-param-region": "eu", "x-request-id": "page-7" }, message);
};

async function see() {
  if (page === "other") {
    return { called: await refusal(stateless("echo")), simple: await refusal(fetch(`${hub}/health/live`)) };
  }
  const answer = await stateless("echo");
  const unknown = await fetch(`${hub}/tools`);
  const wrong = await fetch(`${hub}/process`, { headers: { authorization: `Bearer ${token}` } });
  return {
    session: await session(),
    stateless: [answer.status, answer.headers.get("x-request-id"), (await answer.json()).result.structuredContent],
    unauthorized: [...await refusal(Promise.resolve(unknown)), unknown.headers.get("www-authenticate")],
    wrong_method: [...await refusal(Promise.resolve(wrong)), wrong.headers.get("allow")],
    wrong_header: await refusal(stateless("another")),
    too_large: await refusal(ask("POST", {}, request(1, "ping", { padding: "x".repeat(200_000) }))),
    no_such_path: await refusal(fetch(`${hub}/nothing`, { headers: { authorization: `Bearer ${token}` } })),
    wrong_host: await refusal(fetch(`${elsewhere}/health/live`)),
    unknown_header: await refusal(ask("POST", { "x-unknown": "1" }, request(1, "ping"))),
    unknown_method: await refusal(ask("PUT", {}, request(1, "ping"))),
  };
}

see()
  .catch((error) => String(error.stack))
  .then((seen) => fetch("/seen", {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ page, seen }),
  }));
