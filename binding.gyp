{
  "variables": {
    "isa_targets": [ "lowrank_scalar" ],
    "conditions": [ [ "target_arch=='x64'", { "isa_targets": [ "lowrank_scalar", "lowrank_avx2", "lowrank_avx512", "lowrank_avx512bf16", "lowrank_amx" ] } ] ]
  },
  "target_defaults": {
    "cflags_cc!": [ "-std=gnu++17", "-std=gnu++20" ],
    "cflags_cc": [ "<!@(node -p \"require('./native/sources.json').cflags.join(' ')\")" ]
  },
  "targets": [
    {
      "target_name": "lowrank_scalar",
      "type": "static_library",
      "sources": [ "<!@(node -p \"require('./native/sources.json').isa.scalar.sources.join(' ')\")" ],
      "cflags_cc": [ "<!@(node -p \"const s = require('./native/sources.json').isa; [...s.cflags, ...s.scalar.cflags].join(' ')\")" ]
    },
    {
      "target_name": "lowrank",
      "dependencies": [ "<@(isa_targets)" ],
      "defines": [ "NAPI_VERSION=9" ],
      "sources": [ "<!@(node -p \"const s = require('./native/sources.json'); [...s.addon, ...s.core, ...s.cpu].join(' ')\")" ],
      "cflags_cc!": [ "-fno-exceptions" ],
      "ldflags": [ "-Wl,-z,nodelete" ]
    }
  ],
  "conditions": [
    [ "target_arch=='x64'", {
      "targets": [
        {
          "target_name": "lowrank_avx2",
          "type": "static_library",
          "sources": [ "<!@(node -p \"require('./native/sources.json').isa.avx2.sources.join(' ')\")" ],
          "cflags_cc": [ "<!@(node -p \"const s = require('./native/sources.json').isa; [...s.cflags, ...s.avx2.cflags].join(' ')\")" ]
        },
        {
          "target_name": "lowrank_avx512",
          "type": "static_library",
          "sources": [ "<!@(node -p \"require('./native/sources.json').isa.avx512.sources.join(' ')\")" ],
          "cflags_cc": [ "<!@(node -p \"const s = require('./native/sources.json').isa; [...s.cflags, ...s.avx512.cflags].join(' ')\")" ]
        },
        {
          "target_name": "lowrank_avx512bf16",
          "type": "static_library",
          "sources": [ "<!@(node -p \"require('./native/sources.json').isa.avx512bf16.sources.join(' ')\")" ],
          "cflags_cc": [ "<!@(node -p \"const s = require('./native/sources.json').isa; [...s.cflags, ...s.avx512bf16.cflags].join(' ')\")" ]
        },
        {
          "target_name": "lowrank_amx",
          "type": "static_library",
          "sources": [ "<!@(node -p \"require('./native/sources.json').isa.amx.sources.join(' ')\")" ],
          "cflags_cc": [ "<!@(node -p \"const s = require('./native/sources.json').isa; [...s.cflags, ...s.amx.cflags].join(' ')\")" ]
        }
      ]
    } ]
  ]
}
