/** Whether the server asks who is there. */
class Session {
  asked = $state(false);

  ask(): void {
    this.asked = true;
  }

  /** Everything that failed for want of a token starts again from a clean page. */
  enter(): void {
    location.reload();
  }
}

export const session = new Session();
