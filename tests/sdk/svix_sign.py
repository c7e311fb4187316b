"""Signs deliveries as Svix does, with its official package, and says what that package makes of them.

Reads a list of deliveries in JSON; writes each one's signature, and whether one of `accepted_by` verifies it.
"""

import datetime
import json
import sys

from svix.webhooks import Webhook, WebhookVerificationError


def verdict(delivery, headers):
    for secret in delivery["accepted_by"]:
        try:
            Webhook(secret).verify(delivery["sent"], headers)
            return True
        except WebhookVerificationError:
            pass
    return False


answers = []
for delivery in json.load(sys.stdin):
    at = datetime.datetime.fromtimestamp(delivery["timestamp"], tz=datetime.timezone.utc)
    signatures = [Webhook(secret).sign(delivery["id"], at, delivery["signed"]) for secret in delivery["secrets"]]
    headers = {
        "svix-id": delivery["id"],
        "svix-timestamp": str(delivery["timestamp"]),
        "svix-signature": " ".join(signatures),
    }
    answers.append({"signature": headers["svix-signature"], "verifies": verdict(delivery, headers)})
json.dump(answers, sys.stdout)
