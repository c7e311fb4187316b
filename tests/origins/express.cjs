// A stock Express application with one guarded page and everything else open. It prints its port.
// What it answers is what it served: the gateway in front must not let a member without the role reach `guarded`.
const folder = process.env.PORTCULLIS_NODE_PACKAGES || '.';
const express = require('node:module').createRequire(`${folder}/`)('express');

const app = express();
app.all(['/admin', '/admin/users', '/exact'], (_, response) => response.send('guarded'));
app.all('*', (_, response) => response.send('open'));
const server = app.listen(0, '127.0.0.1', () => console.log(server.address().port));
