# Sample events, the same ones every time: three tenants, three hours of 2 March 2026, as
# NDJSON of the contract's BillingEvent. awk -f demo/events.awk [-v events=240]

function random(below) { # a small generator of our own: awk's differ from machine to machine
    seed = (seed * 16807) % 2147483647
    return seed % below
}

function pick(list,    parts, count) {
    count = split(list, parts, " ")
    return parts[1 + random(count)]
}

BEGIN {
    seed = 20260302
    if (!events) events = 240
    for (n = 1; n <= events; n++) {
        model = pick("acme/large acme/large acme/small acme/small acme/small acme/embed ft:support ft:contracts")
        if (n % 60 == 0) model = "acme/preview"
        tenant = pick("globex initech umbrella")
        prompt = 200 + random(6000)
        # Most long prompts begin with one that was seen before.
        cached = prompt > 1500 ? int(prompt * random(80) / 100) : 0
        completion = model == "acme/embed" ? 0 : 20 + random(1500)
        base = model == "ft:support" ? "acme/small" : ""
        aborted = random(25) == 0
        second = int((n - 1) * 10800 / events)
        printf "{\"request_id\":\"demo-%05d\",\"auth_id\":\"%s\",\"resource_id\":\"%s\",", n, tenant, \
            pick("chat search batch")
        printf "\"model\":\"%s\",", model
        if (base) printf "\"base_model\":\"%s\",", base
        printf "\"prompt_tokens\":%d,\"cached_tokens\":%d,\"completion_tokens\":%d,", prompt, cached, completion
        printf "\"finish_reason\":\"%s\",", aborted ? "abort" : "stop"
        if (aborted) printf "\"aborted\":true,"
        printf "\"event_time\":\"2026-03-02T%02d:%02d:%02dZ\"}\n", 9 + int(second / 3600), \
            int(second / 60) % 60, second % 60
    }
}
