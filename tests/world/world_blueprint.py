"""The file of a test world, with its ports and times to be filled in."""

from __future__ import annotations

BLUEPRINT = """
[chain]
backend = "{backend}"
rpc_port = {chain_rpc}
ws_port = {chain_ws}
finality_slots = 2

[program]
binary = "{binary}"

[timing]
min_challenge_s = {challenge}
unbond_s = 30

[[mints]]
symbol = "USDC"

[[mints]]
symbol = "USDT"

[[wallets]]
name = "provider-1"
usdc = "1000.00"

[[wallets]]
name = "client-1"
usdc = "1000.00"

[[nodes]]
name = "provider-1"
roles = ["provider"]
wallet = "provider-1"
api_port = {provider_api}
p2p_port = {provider_p2p}
stake_slots = 1

[nodes.provider]
slots = 1
price_per_hour = "{price}"
settle_after_s = 1
min_challenge_s = {challenge}

[[nodes]]
name = "client-1"
roles = ["client"]
wallet = "client-1"
api_port = {client_api}
p2p_port = {client_p2p}
deposit = "100.00"
allowance = "100.00"

[nodes.client]
horizon_s = {horizon}
first_tick_s = {first_tick}
channel_deposit = "{channel_deposit}"
max_price_per_hour = "100.00"
challenge_s = {challenge}
close_lost_after_s = {close_lost_after}
"""
PAUPER = """
[[wallets]]
name = "client-2"
usdc = "10.00"

[[nodes]]
name = "client-2"
roles = ["client"]
wallet = "client-2"
api_port = 0
p2p_port = 0
deposit = "{second_deposit}"
allowance = "{second_deposit}"

[nodes.client]
horizon_s = {horizon}
first_tick_s = {first_tick}
max_price_per_hour = "100.00"
challenge_s = {challenge}
"""
SCENE = """
[chain]
backend = "url"
rpc_url = "http://127.0.0.1:{rpc}"
ws_url = "ws://127.0.0.1:{ws}"
program_id = "{program}"
mints = ["{usdc}", "{usdt}"]

[fees]
slot_stake = "10.00"

[[mints]]
symbol = "USDC"

[[mints]]
symbol = "USDT"

[[wallets]]
name = "provider-1"

[[wallets]]
name = "client-1"

[[wallets]]
name = "client-2"

[[nodes]]
name = "provider-1"
roles = ["provider"]
wallet = "provider-1"
api_port = {provider_api}
p2p_port = {provider_p2p}
stake_slots = 4

[nodes.provider]
slots = 4
cpu_cores = 1
memory_mib = 256
disk_mib = 256
price_per_hour = "36.00"
settle_after_s = 1
settle_min = "0.00"
min_challenge_s = {challenge}

[[nodes]]
name = "client-1"
roles = ["client"]
wallet = "client-1"
api_port = {client_api}
p2p_port = {client_p2p}
deposit = "100.00"
allowance = "100.00"

[nodes.client]
horizon_s = {horizon}
first_tick_s = 4
channel_deposit = "5.00"
max_price_per_hour = "100.00"
challenge_s = {challenge}

[[nodes]]
name = "client-2"
roles = ["client"]
wallet = "client-2"
api_port = {other_api}
p2p_port = {other_p2p}
deposit = "0.30"
allowance = "0.30"

[nodes.client]
horizon_s = 6
first_tick_s = 2
channel_deposit = "0.10"
max_price_per_hour = "100.00"
challenge_s = {challenge}
"""
