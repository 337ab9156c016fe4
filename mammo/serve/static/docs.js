"use strict";

function element(name, text, children = []) {
  const made = document.createElement(name);
  made.textContent = text;
  made.append(...children);
  return made;
}

function row(cells, name = "td") {
  return element("tr", "", cells.map((cell) => element(name, cell)));
}

function table(heads, rows) {
  const head = row(heads, "th");
  for (const cell of head.children) cell.scope = "col";
  return element("table", "", [element("thead", "", [head]), element("tbody", "", rows.map((cells) => row(cells)))]);
}

function typeOf(schema) {
  return schema.type ?? (schema.anyOf ?? []).map(typeOf).join(" or ");
}

async function show() {
  for (const span of document.querySelectorAll(".origin")) span.textContent = new URL(".", location).href.slice(0, -1);
  const document_ = await (await fetch("openapi.json")).json();
  const roads = document.getElementById("roads");
  for (const [path, methods] of Object.entries(document_.paths)) {
    for (const [method, road] of Object.entries(methods)) {
      const sent = Object.keys(road.requestBody?.content ?? {}).join(", ");
      const query = (road.parameters ?? []).map((one) => `?${one.name}=`).join(" ");
      roads.append(element("h2", `${method.toUpperCase()} ${path} ${query}`), element("p", road.description ?? ""));
      if (sent) roads.append(element("p", `Body: ${sent}`));
      const answers = Object.entries(road.responses).map(([status, one]) => [status, one.description]);
      roads.append(table(["status", "meaning"], answers));
    }
  }
  const fields = Object.entries(document_.components.schemas.Answer.properties);
  roads.append(element("h2", "An answer"), table(["field", "type", "meaning"], fields.map(
    ([name, schema]) => [name, typeOf(schema), schema.description ?? ""])));
}

show();
